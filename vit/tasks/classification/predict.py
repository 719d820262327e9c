"""Predict labels of images. The checkpoint is enough: it includes classes and preprocessing.

    predictor = vit.load("runs/digits")
    predictor.predict("seven.png").label
    predictor.predict(["a.png", "b.jpg"])     # a list in, a list out, in batches

Letters: B batch, K classes, D width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vit.errors import UserError
from vit.images.preprocess import Preprocess, decode
from vit.predict.predictor import BATCH_SIZE, Streaming, is_image, source_entry, stream_answers
from vit.predict.predictor import Unreadable as Unreadable
from vit.predict.predictor import pick_device as pick_device
from vit.report.plots import draw_prediction
from vit.runs.checkpoint import load_model
from vit.tasks.classification.metrics import THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vit.predict.predictor import Source


OPTIONS = ("threshold",)
"""The options of `vit.load` that `load` takes."""
TOP = 5
"""Default number of classes to show."""


class Scored(NamedTuple):
    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image."""

    label: str
    """The class with the highest score."""
    score: float
    """Its probability in 0..1."""
    labels: tuple[str, ...]
    """Multi-label: the classes above the threshold, best first; may be empty. Otherwise just `label`."""
    scores: Tensor = field(repr=False)
    """float32 [K], probabilities: softmax of the logits (sigmoid if multi-label) after temperature scaling."""
    logits: Tensor = field(repr=False)
    """float32 [K], without temperature scaling."""
    classes: tuple[str, ...] = field(repr=False)
    multilabel: bool = False
    source: Any = None
    """The image as passed in."""

    def top(self, k: int = 5) -> list[Scored]:
        """The k best classes (all K if there are fewer), best first."""
        best = self.scores.topk(min(k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Scored(self.classes[i], score) for i, score in pairs]

    def to_dict(self, k: int | None = None) -> dict[str, Any]:
        """Plain values for JSON: source (if it is a path), label, score, labels, top."""
        top = [scored._asdict() for scored in self.top(k or TOP)]
        answer = {"label": self.label, "score": self.score, "labels": list(self.labels), "top": top}
        return source_entry(self.source) | answer

    def text(self, k: int | None = None) -> str:
        """The k best classes (5 if None) with their scores, on one line."""
        scored = ", ".join(f"{label} {100 * score:.2f} %" for label, score in self.top(k or TOP))
        return f"[{', '.join(self.labels)}] {scored}" if self.multilabel else scored

    def plot(self, k: int = 5) -> Figure:
        """The image beside its k best scores. Save it with `.savefig("answer.png")`; notebooks display it."""
        return draw_prediction(decode(self.source), self.top(k))


class Predictor(Streaming[np.ndarray, Prediction]):
    """A model in evaluation mode with its classes and preprocessing.

    Args:
        model: images float32 [B, 3, H, W] -> logits [B, K]; `forward_features` and `pool` as in `vit.model.classifier`.
        config: the checkpoint's `config.json`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        threshold: multi-label only; the score above which a class counts as present.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any], *, device: str = "auto", threshold: float = THRESHOLD):
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        self.config = config
        self.classes = tuple(config["classes"])
        self.multilabel = bool(config.get("multilabel", False))
        self.preprocess = Preprocess.from_dict(config["preprocess"])
        self.temperature: float = config.get("temperature") or 1.0
        self.threshold = threshold

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return self.preprocess.pixels(image)

    def answer(self, prepared: list[np.ndarray], sources: list[Any]) -> list[Prediction]:
        rows = self._run(self.logits, prepared, sources)
        return [self._prediction(row, source) for row, source in rows]

    def each(
        self, forward: Callable[[Tensor], Tensor], sources: Iterable[Source], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Tensor, Source] | Unreadable]:
        """Apply `forward` (normalized images float32 [B, 3, H, W] -> [B, ...]) in batches; yields each row, on the CPU,
        with its image, in order. Memory holds only one batch."""
        return stream_answers(sources, self.prepare, partial(self._run, forward), batch_size)

    def _run(
        self, forward: Callable[[Tensor], Tensor], prepared: list[np.ndarray], sources: list[Any]
    ) -> list[tuple[Tensor, Any]]:
        values = forward(self.preprocess.tensor(np.stack(prepared))).cpu()
        return [(_finite(value, source), source) for value, source in zip(values, sources, strict=True)]

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Normalized images float32 [B, 3, H, W] -> logits float32 [B, K] on this predictor's device."""
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(f"Expected float images [B, 3, H, W], got {images.dtype} {list(images.shape)}.")
        return self.model(images.to(self.device)).float()

    @torch.no_grad()
    def features(self, x: Source | Iterable[Source] | Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Pooled features float32 [B, D] on this predictor's device, as the head sees them.

        x: as for `predict` (one image gives B = 1), or normalized images float32 [B, 3, H, W], as one batch.
        """
        if isinstance(x, Tensor):
            model: Any = self.model
            return model.pool(model.forward_features(x.to(self.device))).float()
        rows = []
        for result in self.each(self.features, [x] if is_image(x) else x, batch_size=batch_size):  # pyright: ignore
            if isinstance(result, Unreadable):
                raise UserError(result.reason)
            rows.append(result[0])
        if not rows:
            raise UserError("features() got no images. Pass at least one.")
        return torch.stack(rows).to(self.device)

    @torch.no_grad()
    def patch_features(self, images: Tensor) -> Tensor:
        """Normalized images float32 [B, 3, H, W] -> patch features float32 [B, h, w, D] on this predictor's device."""
        model: Any = self.model
        tokens = model.forward_features(images.to(self.device))
        return tokens.patches.unflatten(1, tokens.grid).float()

    def _prediction(self, logits: Tensor, source: Any) -> Prediction:
        scaled = logits / self.temperature
        scores = scaled.sigmoid() if self.multilabel else scaled.softmax(0)
        order = scores.argsort(descending=True, stable=True).tolist()
        above = [i for i in order if scores[i] > self.threshold] if self.multilabel else order[:1]
        return Prediction(
            label=self.classes[order[0]],
            score=float(scores[order[0]]),
            labels=tuple(self.classes[i] for i in above),
            scores=scores,
            logits=logits,
            classes=self.classes,
            multilabel=self.multilabel,
            source=source,
        )


def load(checkpoint: str | Path, *, device: str = "auto", threshold: float | None = None, **others: Any) -> Predictor:
    """Load a classifier for `vit.load`. threshold: multi-label only; the score above which a class counts as present.
    Raises UserError for an option that is not for classifiers."""
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{checkpoint} is a classifier: {name} is for detectors.")
    if not isinstance(threshold, float | int | None):
        raise UserError(f"{checkpoint} is a classifier: thresholds by class are for detectors.")
    model, config = load_model(checkpoint)
    return Predictor(model, config, device=device, threshold=THRESHOLD if threshold is None else threshold)


def _finite(values: Tensor, source: Any) -> Tensor:
    if not bool(values.isfinite().all()):
        name = str(source) if isinstance(source, str | Path) else "the image"
        raise UserError(
            f"The model outputs NaN or infinite values for {name}: its weights are damaged or its training diverged. "
            "Load an earlier checkpoint."
        )
    return values
