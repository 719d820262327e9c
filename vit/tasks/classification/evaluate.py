"""Evaluate a classifier: a checkpoint and a split of data -> `Evaluation`.

The logits of a whole split are kept (200 MB for 50,000 images of 1,000 classes): calibration and the worst mistakes
need them all, and no metric can then depend on the batch size.
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
from vit.tasks.classification.neighbors import evaluate_public, headline, neighbors, require_memory
from vit.tasks.classification.predict import Predictor
from vit.tasks.classification.tta import with_tta
from vit.tasks.evaluation import Evaluation, split_of
from vit.tasks.evaluation import evaluate as evaluate_batches
from vit.tasks.evaluation_options import EvaluationOptions

__all__ = ["calibrate", "evaluate", "evaluate_public"]


def evaluate(checkpoint: str | Path, data: Data, options: EvaluationOptions, *, calibrated: bool = False) -> Evaluation:
    """The metrics of one split, as `summarize` computes them, plus `tta` and `knn` if the options request them.

    The temperature is fitted on the validation split; it is the checkpoint's if `calibrated`, without a validation
    split, or if that is the split to evaluate. Raises UserError if the split does not exist, none of it can be read, or
    the data's classes are not the checkpoint's.
    """
    options.refuse(str(checkpoint), "detectors", tile=options.tile, nms=options.nms)
    predictor = Predictor(*load_model(checkpoint), device=options.device)
    split, splits, config = split_of(data, options.split), data.splits(), predictor.config
    if options.knn is not None:
        require_memory(data)
    check_data(data, config)
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
        result["tta"] = headline(run(predictor, averaged, loader_of(predictor, images, options))[0].scalars())
    if options.knn is not None:
        queries, memory = loader_of(predictor, images, options), loader_of(predictor, splits["train"], options)
        result["knn"] = neighbors(options.knn, predictor, predictor.classes, queries, memory)[1]
    return Evaluation(result, metrics, index, images)


def calibrate(checkpoint: str | Path, data: Data, options: EvaluationOptions) -> dict[str, Any]:
    """Entries of config.json that validation determines: the temperature, None if there is no optimum."""
    predictor = Predictor(*load_model(checkpoint), device=options.device)
    return {"temperature": temperature_of(predictor, data, options)}


def temperature_of(predictor: Predictor, data: Data, options: EvaluationOptions) -> float | None:
    """The temperature fitted on the validation split; None if there is no optimum."""
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
    """Metrics, with every logit, of `forward` (images float32 [B, 3, H, W] -> logits [B, K])."""
    metrics = ClassificationMetrics(predictor.classes, predictor.multilabel, keep_logits=True)
    _, index = evaluate_batches(predictor.model, lambda batch: forward(batch.images), batches, metrics, tick=tick)
    return metrics, index


def loader_of(predictor: Predictor, images: Any, options: EvaluationOptions) -> Loader[Batch]:
    loading = LoaderOptions(options.batch_size, workers=options.workers, device=predictor.device)
    return eval_loader(LabelReader(images, predictor.preprocess), loading)


def summarize(metrics: ClassificationMetrics, temperature: float | None = None) -> dict[str, Any]:
    """`ClassificationMetrics.compute` plus `ece_calibrated`, the ECE of the logits divided by the temperature. Without
    images every metric is None: undefined, not zero."""
    result = metrics.compute()
    result["temperature"] = temperature
    result["ece_calibrated"] = None
    if result["n"] and temperature is not None:
        outputs: Outputs = metrics.outputs([])
        scaled = ClassificationMetrics(metrics.classes, metrics.multilabel)
        scaled.update(outputs.logits / temperature, outputs.targets)
        result["ece_calibrated"] = scaled.scalars()["ece"]
    return result


def check_data(data: Data, config: dict[str, Any]) -> None:
    """Number the labels as the checkpoint does. Raises UserError if they do not match."""
    splits = data.splits()
    if data.multilabel != config.get("multilabel", False):
        kinds = {True: "any number of labels", False: "one class"}
        raise UserError(
            f"{data.source} gives each image {kinds[data.multilabel]}, the checkpoint {kinds[not data.multilabel]}. "
            "A manifest's column label holds one class per image, its column labels any number."
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
        print(f"{len(absent)} of the checkpoint's classes have no images: {shown(absent)}.", file=sys.stderr)
    for images in splits.values():
        images.relabel(classes)


def flips(options: EvaluationOptions, config: dict[str, Any]) -> bool:
    """Whether to use mirror images; auto follows training, since a mirrored 3 is not a 3."""
    if options.tta_flip != "auto":
        return options.tta_flip == "yes"
    return config.get("augment", {}).get("flip", 0) > 0
