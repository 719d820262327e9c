"""The figures of a classifier: a checkpoint and a split of data -> `Evaluation`.

The logits of a whole split are kept (50,000 images of 1,000 classes are 200 MB): calibration, the worst mistakes and
test-time augmentation all need them together, and no figure can then depend on the size of a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.data.load.label_reader import Batch, LabelReader
from vit.data.load.loader import Loader, LoaderOptions, eval_loader
from vit.data.sets.data import Data
from vit.errors import UserError, shown
from vit.predict.progress import progress
from vit.runs.checkpoint import load_model
from vit.tasks.classification.calibration import Outputs, fit_temperature
from vit.tasks.classification.metrics import ClassificationMetrics
from vit.tasks.classification.neighbors import evaluate_public, neighbors
from vit.tasks.classification.predict import Predictor
from vit.tasks.classification.tta import with_tta
from vit.tasks.evaluation import Evaluation, split_of
from vit.tasks.evaluation import evaluate as evaluate_batches
from vit.tasks.evaluation_options import EvaluationOptions

__all__ = ["calibrate", "evaluate", "evaluate_public"]


def evaluate(checkpoint: str | Path, data: Data, options: EvaluationOptions, *, calibrated: bool = False) -> Evaluation:
    """Top-1 or mean AP, F1, calibration and more of one split, as `summarize` gives them, with `tta` and `knn` beside
    them where the options ask.

    The temperature is fitted on the validation split, from which the figures are not computed; without one, or with
    `calibrated`, it is the checkpoint's. Raises UserError when the split does not exist, none of it can be read, or the
    data's classes are not the checkpoint's.
    """
    options.refuse(str(checkpoint), "detectors", tile=options.tile, nms=options.nms)
    predictor = Predictor(*load_model(checkpoint), device=options.device)
    split, splits, config = split_of(data, options.split), data.splits(), predictor.config
    check_data(data, config, needed="train" if options.knn is not None else None)
    temperature = config.get("temperature")
    if "val" in splits and split != "val" and not calibrated:
        temperature = temperature_of(predictor, data, options) or temperature
    images = splits[split]
    batches = loader_of(predictor, images, options)
    metrics, index = run(predictor, predictor.logits, batches, progress(len(images)))
    if not index:
        raise UserError(f"None of the {len(images)} images of {split} can be read. The first: {batches.bad[0].reason}")
    result: dict[str, Any] = {"task": config["task"], "split": split, "data": data.source}
    result |= summarize(metrics, temperature)
    result["unreadable"] = [bad._asdict() for bad in batches.bad]
    if options.tta:
        averaged = with_tta(predictor.logits, flip=flips(options, config), multilabel=predictor.multilabel)
        result["tta"] = headline(run(predictor, averaged, loader_of(predictor, images, options))[0])
    if options.knn is not None:
        queries, memory = loader_of(predictor, images, options), loader_of(predictor, splits["train"], options)
        result["knn"] = neighbors(options.knn, predictor, predictor.classes, queries, memory)[1]
    return Evaluation(result, metrics, index, images)


def calibrate(checkpoint: str | Path, data: Data, options: EvaluationOptions) -> dict[str, Any]:
    """What the validation split decides, as entries of config.json: the temperature, None where it determines none."""
    predictor = Predictor(*load_model(checkpoint), device=options.device)
    return {"temperature": temperature_of(predictor, data, options)}


def temperature_of(predictor: Predictor, data: Data, options: EvaluationOptions) -> float | None:
    """Fitted on the validation split; None where that determines none."""
    assert data.val is not None
    metrics, index = run(predictor, predictor.logits, loader_of(predictor, data.val, options))
    if not index:
        return None
    outputs = metrics.outputs(index)
    return fit_temperature(outputs.logits, outputs.targets)


def run(
    predictor: Predictor,
    forward: Callable[[Tensor], Tensor],
    batches: Loader[Batch],
    tick: Callable[[int], None] | None = None,
) -> tuple[ClassificationMetrics, list[int]]:
    """The metrics, with every logit, of `forward` (images float32 [B, 3, H, W] -> logits [B, K])."""
    metrics = ClassificationMetrics(predictor.classes, predictor.multilabel, keep_logits=True)
    _, index = evaluate_batches(predictor.model, lambda batch: forward(batch.images), batches, metrics, tick=tick)
    return metrics, index


def loader_of(predictor: Predictor, images: Any, options: EvaluationOptions) -> Loader[Batch]:
    loading = LoaderOptions(options.batch_size, workers=options.workers, device=predictor.device)
    return eval_loader(LabelReader(images, predictor.preprocess), loading)


def summarize(metrics: ClassificationMetrics, temperature: float | None = None) -> dict[str, Any]:
    """`ClassificationMetrics.compute` and, with a temperature, `ece_calibrated`: the ECE after dividing the logits by
    it. Without any image every figure is None: undefined, not zero."""
    result = metrics.compute()
    result["temperature"] = temperature
    result["ece_calibrated"] = None
    if result["n"] and temperature is not None:
        outputs: Outputs = metrics.outputs([])
        scaled = ClassificationMetrics(metrics.classes, metrics.multilabel)
        scaled.update(outputs.logits / temperature, outputs.targets)
        result["ece_calibrated"] = scaled.scalars()["ece"]
    return result


def headline(metrics: ClassificationMetrics) -> dict[str, Any]:
    """The headline figures of another way to classify the same images."""
    result = metrics.scalars()
    return {key: result[key] for key in ("n", "top1", "top5", "macro_f1", "map") if key in result}


def check_data(data: Data, config: dict[str, Any], needed: str | None = None) -> None:
    """Raise UserError unless the labels are the checkpoint's and the split `needed` exists. Numbers the labels as the
    checkpoint does."""
    splits = data.splits()
    if needed is not None and needed not in splits:
        has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no {needed} split; it has {has}. --knn needs it.")
    if data.multilabel != config.get("multilabel", False):
        kinds = {True: "any number of labels", False: "one class"}
        raise UserError(
            f"{data.source} gives an image {kinds[data.multilabel]}, the checkpoint {kinds[not data.multilabel]}. "
            "A manifest with the column label has one class an image, with labels any number."
        )
    classes: Sequence[str] = config["classes"]
    occurring = {
        name for images in splits.values() for name, n in zip(images.classes, images.counts(), strict=True) if n
    }
    unknown, absent = sorted(occurring - set(classes)), [name for name in classes if name not in occurring]
    if unknown:
        raise UserError(
            f"The classes of {data.source} are not the checkpoint's. Only in the data: {shown(unknown)}. Only in the "
            f"checkpoint: {shown(absent) if absent else 'none'}. Rename the class folders, or train on this data."
        )
    if absent:
        print(f"No images of {len(absent)} of the checkpoint's classes: {shown(absent)}.", file=sys.stderr)
    for images in splits.values():
        images.relabel(classes)


def flips(options: EvaluationOptions, config: dict[str, Any]) -> bool:
    """Whether mirror images mean the same: only the recipe knows (a mirrored 3 is no 3)."""
    if options.tta_flip != "auto":
        return options.tta_flip == "yes"
    return config.get("augment", {}).get("flip", 0) > 0
