"""Evaluate a detection checkpoint: checkpoint + data -> COCO's figures. `eval.py` comes here for detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit.errors import UserError, shown

if TYPE_CHECKING:
    from vit.data.load.loader import Bad
    from vit.data.sets.data import DetectionData
    from vit.detector import Detector
    from vit.tasks.detection.metrics import DetectionMetrics
    from vit.tasks.detection.scan.options import Scan


class Evaluated(NamedTuple):
    metrics: DetectionMetrics
    index: list[int]
    """Position in the split of each image."""
    bad: list[Bad]
    """Images that could not be read."""


def evaluate_detector(
    checkpoint: str | Path,
    data: DetectionData,
    split: str,
    *,
    scan: Scan | None = None,
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 0,
    tick: Callable[[int], None] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The figures of one split, printed, written with pictures into the folder `out` and returned: keys task, split,
    n, map, map50, map75, per_class, best_threshold and those of `vit.tasks.detection.metrics.DetectionMetrics.compute`.

    What depends on a score threshold is at the checkpoint's own, which validation chose; where it has none, at the best
    one of this split.

    Raises UserError when the split does not exist, none of it can be read, or its classes are not the checkpoint's.
    """
    from vit.predict.predictor import pick_device
    from vit.pretrained.load_detector import load_detector
    from vit.tasks.detection.report import print_detection, write_detection_report
    from vit.tasks.detection.scan.options import Scan

    splits = data.splits()
    if split not in splits:
        has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no {split} split; it has {has}. Try --split {next(iter(splits))}.")
    model, config = load_detector(checkpoint)
    model.to(pick_device(device))
    images, scan = splits[split], scan or Scan()
    images.relabel(config["classes"])
    done = collect(model, config, images, scan, batch_size=batch_size, workers=workers, tick=tick)
    if not done.index:
        raise UserError(f"none of the {len(images)} images of {split} can be read. The first: {done.bad[0].reason}")
    result = {"task": "detection", "split": split, "data": data.source, "scan": changed(scan)}
    result |= done.metrics.compute(config.get("threshold"))
    result["unreadable"] = [item._asdict() for item in done.bad]
    if out is not None:
        write_detection_report(out, result, done.metrics, done.index, image=images.image, name=images.name)
    print_detection(result)
    return result


def collect(
    model: Detector,
    config: dict[str, Any],
    images: Any,
    scan: Scan,
    *,
    batch_size: int = 32,
    workers: int = 0,
    tick: Callable[[int], None] | None = None,
) -> Evaluated:
    """Boxes and objects of every image that can be read."""
    import torch

    from vit.data.load.box_reader import BoxReader
    from vit.data.load.loader import LoaderOptions, eval_loader
    from vit.tasks.detection.metrics import DetectionMetrics
    from vit.tasks.detection.scan.scanner import Scanner

    scanner = Scanner(model, config, scan)
    preprocess, device = scanner.preprocess, next(model.parameters()).device
    metrics = DetectionMetrics(config["classes"], preprocess.size)
    index: list[int] = []
    with torch.inference_mode():
        if scan.tile is not None:
            return in_tiles(scanner, metrics, images, tick)
        batches = eval_loader(
            BoxReader(images, preprocess), LoaderOptions(batch_size=batch_size, workers=workers, device=device)
        )
        for batch in batches:
            places = [target["placement"] for target in batch.targets]
            sizes = [target["original_size"] for target in batch.targets]
            for found, target in zip(scanner.inputs(batch.images, places, sizes), batch.targets, strict=True):
                metrics.add(found, target)
            index += batch.index.tolist()
            if tick is not None:
                tick(len(index))
    return Evaluated(metrics, index, batches.bad)


def in_tiles(scanner: Any, metrics: DetectionMetrics, images: Any, tick: Callable[[int], None] | None) -> Evaluated:
    """One image at a time, as it is: a loader ships images at the model's input size."""
    from vit.data.load.loader import Bad

    index: list[int] = []
    bad: list[Bad] = []
    for i in range(len(images)):
        try:
            image = images.image(i)
        except UserError as error:
            bad.append(Bad(images.name(i), str(error)))
            continue
        truth = images.annotation(i)
        metrics.add(scanner.finish([scanner.prepare(image)])[0], {**truth._asdict(), "original_boxes": truth.boxes})
        index.append(i)
        if tick is not None:
            tick(len(index))
    return Evaluated(metrics, index, bad)


def changed(scan: Scan) -> dict[str, Any]:
    """The options that are not the default."""
    plain = asdict(type(scan)())
    return {key: value for key, value in asdict(scan).items() if value != plain[key]}
