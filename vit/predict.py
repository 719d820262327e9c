"""A checkpoint and some images -> labels. The checkpoint alone is enough: classes and preprocessing are inside it.

    predictor = vit.load("runs/digits")
    predictor.predict("seven.png").label
    predictor.predict(["a.png", "b.jpg"])     # a list in, a list out, run in batches

Letters: B batch, K classes, D width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vit.checkpoint import load_model
from vit.errors import UserError
from vit.image import Preprocess, decode
from vit.metrics import THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    Source = str | Path | bytes | Image | np.ndarray

BATCH_SIZE = 32


class Scored(NamedTuple):
    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image."""

    label: str
    """The class with the highest score."""
    score: float
    """Its probability in 0..1."""
    labels: tuple[str, ...]
    """Multi-label: the classes above the threshold, best first (none is possible). Otherwise just `label`."""
    scores: Tensor = field(repr=False)
    """float32 [K], probabilities: a softmax of the logits, or sigmoids when multi-label, after temperature scaling."""
    logits: Tensor = field(repr=False)
    """float32 [K], as the model gave them, without temperature."""
    classes: tuple[str, ...] = field(repr=False)
    multilabel: bool = False
    source: Any = None
    """The image as it was handed in."""

    def top(self, k: int = 5) -> list[Scored]:
        """The k best classes (all K if there are fewer), best first."""
        best = self.scores.topk(min(k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Scored(self.classes[i], score) for i, score in pairs]

    def to_dict(self, k: int = 5) -> dict[str, Any]:
        """Plain values for JSON: source (when it is a path), label, score, labels, top."""
        path = {"source": str(self.source)} if isinstance(self.source, str | Path) else {}
        top = [scored._asdict() for scored in self.top(k)]
        return {**path, "label": self.label, "score": self.score, "labels": list(self.labels), "top": top}

    def plot(self, k: int = 5) -> Figure:
        """The image beside its k best scores. Save it with `.savefig("answer.png")`; a notebook shows it as it is."""
        from vit.plots import draw_prediction

        return draw_prediction(decode(self.source), self.top(k))


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded."""

    source: Any
    reason: str

    def to_dict(self) -> dict[str, Any]:
        path = {"source": str(self.source)} if isinstance(self.source, str | Path) else {}
        return {**path, "error": self.reason}


class Predictor:
    """A model in evaluation mode with its classes and preprocessing.

    Args:
        model: images float32 [B, 3, H, W] -> logits [B, K]; `forward_features` and `pool` as in `vit.classifier`.
        config: the checkpoint's `config.json`.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
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

    def predict(self, x: Source | Iterable[Source], *, batch_size: int = BATCH_SIZE) -> Prediction | list[Prediction]:
        """One image -> a Prediction; several -> a list in the same order.

        An image is a path, bytes of a file, a PIL image or an array (uint8 [H, W, 3] and whatever else
        `vit.image.decode` takes). Several are any iterable of those, or an array [B, H, W, 3].

        Raises UserError at the first unreadable image; `stream` goes on instead.
        """
        if isinstance(x, Tensor):
            raise UserError(
                "predict() takes images before preprocessing: paths, bytes, PIL images or numpy arrays. "
                "A normalised float tensor [B, 3, H, W] goes to Predictor.logits(); for pixels pass tensor.numpy()."
            )
        single = _is_image(x)
        results: list[Prediction] = []
        for result in self.stream([x] if single else x, batch_size=batch_size):  # pyright: ignore
            if isinstance(result, Unreadable):
                raise UserError(result.reason)
            results.append(result)
        return results[0] if single else results

    def stream(self, sources: Iterable[Source], *, batch_size: int = BATCH_SIZE) -> Iterator[Prediction | Unreadable]:
        """Predictions one after another, in order, in batches, with memory for one batch only."""
        for result in self.each(self.logits, sources, batch_size=batch_size):
            yield result if isinstance(result, Unreadable) else self._prediction(*result)

    def each(
        self, forward: Callable[[Tensor], Tensor], sources: Iterable[Source], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Tensor, Source] | Unreadable]:
        """What `forward` (normalised images float32 [B, 3, H, W] -> [B, ...]) gives of each image, on the CPU, and the
        image, in order. Run in batches, with memory for one batch only."""
        iterator = iter(sources)
        while chunk := list(islice(iterator, batch_size)):
            readable: list[np.ndarray] = []
            failed: dict[int, Unreadable] = {}
            for i, source in enumerate(chunk):
                try:
                    readable.append(self.preprocess.pixels(decode(source)))
                except UserError as error:
                    failed[i] = Unreadable(source, str(error))
            values = iter(forward(self.preprocess.tensor(np.stack(readable))).cpu() if readable else ())
            for i, source in enumerate(chunk):
                yield failed[i] if i in failed else (_finite(next(values), source), source)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Normalised images float32 [B, 3, H, W] -> logits float32 [B, K] on this predictor's device."""
        if images.ndim != 4 or not images.is_floating_point():
            raise UserError(f"expected float images [B, 3, H, W], got {images.dtype} {list(images.shape)}.")
        return self.model(images.to(self.device)).float()

    @torch.no_grad()
    def features(self, x: Source | Iterable[Source] | Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
        """Pooled features float32 [B, D] on this predictor's device, as the head sees them.

        x: like `predict` (one image gives B = 1), or normalised images float32 [B, 3, H, W], taken as one batch.
        """
        if isinstance(x, Tensor):
            model: Any = self.model
            return model.pool(model.forward_features(x.to(self.device))).float()
        rows = []
        for result in self.each(self.features, [x] if _is_image(x) else x, batch_size=batch_size):  # pyright: ignore
            if isinstance(result, Unreadable):
                raise UserError(result.reason)
            rows.append(result[0])
        if not rows:
            raise UserError("features() was given no images.")
        return torch.stack(rows).to(self.device)

    @torch.no_grad()
    def patch_features(self, images: Tensor) -> Tensor:
        """Normalised images float32 [B, 3, H, W] -> a feature of each patch, float32 [B, h, w, D], on this predictor's
        device."""
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


def load(checkpoint: str | Path, device: str = "auto", *, threshold: float = THRESHOLD) -> Predictor:
    """A checkpoint folder, or a run folder (its best checkpoint) -> Predictor. Raises UserError if it is neither."""
    model, config = load_model(checkpoint)
    return Predictor(model, config, device=device, threshold=threshold)


def pick_device(name: str) -> torch.device:
    """ "auto" -> the GPU when there is one, else the CPU. Raises UserError when `name` cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {reason} Try auto or cpu.") from None
    return device


def _finite(values: Tensor, source: Any) -> Tensor:
    if not bool(values.isfinite().all()):
        named = str(source) if isinstance(source, str | Path) else "the image"
        raise UserError(
            f"the model gives NaN or infinite values for {named}: its weights are damaged or its training "
            "diverged. Load an earlier checkpoint."
        )
    return values


def _is_image(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.ndim < 4
    return isinstance(x, str | Path | bytes | bytearray) or hasattr(x, "read") or hasattr(x, "getbands")
