"""Evaluate a detection checkpoint: checkpoint + data -> COCO's figures. `eval.py` comes here for detectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.errors import UserError, shown

if TYPE_CHECKING:
    from datasets.boxset import DetectionData


def evaluate_detector(
    checkpoint: str | Path,
    data: DetectionData,
    split: str,
    *,
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 0,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The figures of one split, printed and returned: keys task, split, n, map, map50, map75, per_class,
    best_threshold and those of `vit.detection_metrics.DetectionMetrics.compute`.

    Raises UserError when the split does not exist, none of it can be read, or its classes are not the checkpoint's.
    """
    import torch

    from datasets.box_loader import box_eval_loader
    from vit.detection_metrics import DetectionMetrics
    from vit.detection_report import print_detection
    from vit.detector.start import load_detector
    from vit.image import Preprocess
    from vit.predict import pick_device

    splits = data.splits()
    if split not in splits:
        has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no {split} split; it has {has}. Try --split {next(iter(splits))}.")
    model, config = load_detector(checkpoint)
    place = pick_device(device)
    model.to(place)
    images = splits[split]
    images.relabel(config["classes"])
    preprocess = Preprocess.from_dict(config["preprocess"])
    batches = box_eval_loader(images, preprocess, batch_size=batch_size, workers=workers, device=place)
    metrics, done = DetectionMetrics(config["classes"], preprocess.size), 0
    with torch.inference_mode():
        for batch in batches:
            metrics.update(model(batch.images).last, batch.targets)
            done += len(batch.index)
            if tick is not None:
                tick(done)
    if not done:
        raise UserError(f"none of the {len(images)} images of {split} can be read. The first: {batches.bad[0].reason}")
    result = {"task": "detection", "split": split, "data": data.source, **metrics.compute()}
    result["unreadable"] = [item._asdict() for item in batches.bad]
    print_detection(result)
    return result
