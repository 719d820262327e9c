"""Evaluate a detector: a checkpoint and a split of data -> `Evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import Bad, LoaderOptions, eval_loader
from vit.data.sets.data import DetectionData
from vit.detector import Detector
from vit.errors import UserError
from vit.predict.predictor import pick_device
from vit.predict.progress import progress
from vit.pretrained.load_detector import load_detector
from vit.tasks.detection.metrics import DetectionMetrics
from vit.tasks.detection.report import thresholds_to_keep
from vit.tasks.detection.scan.options import Scan
from vit.tasks.detection.scan.scanner import Scanner
from vit.tasks.evaluation import Evaluation, split_of
from vit.tasks.evaluation import evaluate as evaluate_batches
from vit.tasks.evaluation_options import EvaluationOptions


def evaluate(
    checkpoint: str | Path, data: DetectionData, options: EvaluationOptions, *, calibrated: bool = False
) -> Evaluation:
    """COCO's metrics of one split: task, split, data, scan, unreadable, and the keys of `DetectionMetrics.compute`.

    The score threshold is the checkpoint's own, which validation chose, whatever `calibrated` is; without one, it is
    the best on this split. Raises UserError if the split does not exist, none of it can be read, or its classes are not
    the checkpoint's.
    """
    options.refuse(str(checkpoint), "classifiers", knn=options.knn)
    split = split_of(data, options.split)
    model, config = load_detector(checkpoint)
    scan = scan_of(options, config)
    model.to(pick_device(options.device))
    images = data.splits()[split]
    images.relabel(config["classes"])
    metrics, index, bad = run(model, config, images, scan, options, progress(len(images)))
    if not index:
        raise UserError(f"None of the {len(images)} images of {split} can be read. The first: {bad[0].reason}")
    result = {"task": "detection", "split": split, "data": data.source, "scan": changed(scan)}
    result |= metrics.compute(config.get("threshold"))
    result["unreadable"] = [item._asdict() for item in bad]
    return Evaluation(result, metrics, index, images)


def calibrate(checkpoint: str | Path, data: DetectionData, options: EvaluationOptions) -> dict[str, Any]:
    """Entries of config.json that validation determines: the score thresholds with the highest F1."""
    model, config = load_detector(checkpoint)
    model.to(pick_device(options.device))
    metrics, _, _ = run(model, config, data.val, Scan(), options)
    return thresholds_to_keep(metrics.compute())


def run(
    model: Detector,
    config: dict[str, Any],
    images: Any,
    scan: Scan,
    options: EvaluationOptions,
    tick: Callable[[int], None] | None = None,
) -> tuple[DetectionMetrics, list[int], list[Bad]]:
    """Metrics of all readable images, their positions in the split, and the unreadable images."""
    scanner = Scanner(model, config, scan)
    preprocess, device = scanner.preprocess, next(model.parameters()).device
    metrics = DetectionMetrics(config["classes"], preprocess.size)
    if scan.tile is not None:
        batches: Any = Whole(images)
    else:
        loading = LoaderOptions(options.batch_size, workers=options.workers, device=device)
        batches = eval_loader(BoxReader(images, preprocess), loading)

    def predict(batch: Any) -> Any:
        if scan.tile is not None:
            return scanner.finish([scanner.prepare(image) for image in batch.images])
        if scan == Scan():  # as in training
            return model(batch.images).last
        places = [target["placement"] for target in batch.targets]
        return scanner.inputs(batch.images, places, [target["original_size"] for target in batch.targets])

    _, index = evaluate_batches(model, predict, batches, metrics, tick=tick)
    return metrics, index, batches.bad


class WholeBatch(NamedTuple):
    images: list[Any]
    """One image, uint8 [H, W, 3]."""
    targets: list[dict[str, Any]]
    index: Tensor


class Whole(Iterable[WholeBatch]):
    """One image at a time, at full size: a loader gives images at the model's input size."""

    def __init__(self, images: Any) -> None:
        self.images = images
        self.bad: list[Bad] = []

    def __iter__(self) -> Iterator[WholeBatch]:
        for i in range(len(self.images)):
            try:
                image = self.images.image(i)
            except UserError as error:
                self.bad.append(Bad(self.images.name(i), str(error)))
                continue
            truth = self.images.annotation(i)
            yield WholeBatch([image], [{**truth._asdict(), "original_boxes": truth.boxes}], torch.tensor([i]))


def scan_of(options: EvaluationOptions, config: dict[str, Any]) -> Scan:
    """The scan that the options request; --tta mirrors if training did, or as --tta-flip says."""
    flip = None
    if options.tta:
        trained = config.get("augment", {}).get("flip", 0) > 0
        flip = trained if options.tta_flip == "auto" else options.tta_flip == "yes"
    scan = Scan(tile=options.tile, tta=options.tta, flip=flip, nms=options.nms)
    return scan if options.overlap is None else Scan(**{**asdict(scan), "overlap": options.overlap})


def changed(scan: Scan) -> dict[str, Any]:
    """The options that differ from the default."""
    plain = asdict(type(scan)())
    return {key: value for key, value in asdict(scan).items() if value != plain[key]}
