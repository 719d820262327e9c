"""How time and peak memory grow: with the number of tokens (image size), the batch, the boxes in an image, the images.

Printed are the exponents p of size^p, fitted over all sizes and over the two largest: what grows linearly has 1, what
compares everything with everything 2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.contest import parsed, write
from benchmarks.model import batch_of, forward, training
from benchmarks.turns import CLOCK, Clock, exponent, peak_memory, table, take_turns
from benchmarks.vits import Shape, ours
from vit.detector.boxes import to_xyxy
from vit.detector.output import DetectorOutput, Predictions
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.metrics import DetectionMetrics

Run = Callable[[], object]
CLASSES = 80


@dataclass(frozen=True)
class Options:
    what: tuple[Literal["tokens", "batch", "boxes", "images"], ...] = ("tokens", "batch", "boxes", "images")
    size: Literal["ti", "s", "b"] = "ti"
    sides: tuple[int, ...] = (128, 192, 256, 384, 512, 768)
    """Of square images; patches of 16."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    boxes: tuple[int, ...] = (5, 20, 80, 320)
    """Objects in each of 4 images with 300 queries."""
    images: tuple[int, ...] = (500, 2000, 8000)
    """Files of a folder that is opened, and images that are judged."""
    rounds: int = 3
    clock: Clock = CLOCK
    json: str | None = None


def by_tokens(o: Options) -> dict[str, dict[float, Run]]:
    """Forward and training step of one image, by its number of tokens."""
    found: dict[str, dict[float, Run]] = {"forward": {}, "training step": {}}
    for side in o.sides:
        shape = Shape.of(o.size, side)
        images, targets = batch_of(shape, 1)
        model = ours(shape)
        found["forward"][shape.tokens] = forward(model, images, "fp32")
        found["training step"][shape.tokens] = training(model, images, targets, "fp32")
    return found


def by_batch(o: Options) -> dict[str, dict[float, Run]]:
    shape = Shape.of(o.size, 224)
    model = ours(shape)
    batches = {n: batch_of(shape, n) for n in o.batches}
    return {
        "forward": {n: forward(model, images, "fp32") for n, (images, _) in batches.items()},
        "training step": {n: training(model, *batch, "fp32") for n, batch in batches.items()},
    }


def by_boxes(o: Options) -> dict[str, dict[float, Run]]:
    """Matching and loss, forward and backward, and the metrics of a batch."""
    generator = torch.Generator().manual_seed(0)
    loss = DetectionLoss(CLASSES)
    logits = torch.randn(4, 300, CLASSES, generator=generator).requires_grad_()
    boxes = (0.1 + 0.8 * torch.rand(4, 300, 4, generator=generator)).requires_grad_()

    def step(targets: list[dict[str, Any]]) -> None:
        torch.stack(list(loss(DetectorOutput(Predictions(logits, boxes)), targets).values())).sum().backward()

    def judge(targets: list[dict[str, Any]]) -> None:
        metrics = DetectionMetrics([str(k) for k in range(CLASSES)], (384, 384))
        metrics.update(Predictions(logits.detach(), boxes.detach()), targets)
        metrics.scalars()

    found: dict[str, dict[float, Run]] = {"matching and loss": {}, "COCO metrics": {}}
    for n in o.boxes:
        targets = [_objects(n, i, generator) for i in range(4)]
        found["matching and loss"][n] = lambda targets=targets: step(targets)
        found["COCO metrics"][n] = lambda targets=targets: judge(targets)
    return found


def _objects(n: int, image: int, generator: torch.Generator) -> dict[str, Any]:
    center, size = torch.rand(2, n, 2, generator=generator)
    boxes = torch.cat([0.2 + 0.6 * center, 0.02 + 0.2 * size], dim=1)
    return {
        "boxes": boxes,
        "original_boxes": to_xyxy(boxes) * 384,
        "area": boxes[:, 2:].prod(dim=1) * 384**2,
        "labels": torch.randint(0, CLASSES, (n,), generator=generator),
        "crowd": torch.zeros(n, dtype=torch.bool),
        "image_id": image,
        "original_size": (384, 384),
        "placement": (1.0, 1.0, 0, 0),
    }


def by_images(o: Options, folder: Path) -> dict[str, dict[float, Run]]:
    """Opening a folder of so many files, and classification metrics over so many images."""
    from vit.data import open_data
    from vit.tasks.classification.metrics import ClassificationMetrics

    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[float, Run]] = {"opening a folder": {}, "classification metrics": {}}
    pixel = folder / "pixel.png"
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(pixel)
    content = pixel.read_bytes()
    for n in o.images:
        for i in range(n):
            place = folder / str(n) / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(content)
        logits, targets = torch.randn(n, 100, generator=generator), torch.randint(0, 100, (n,), generator=generator)

        def judge(logits: Tensor = logits, targets: Tensor = targets) -> None:
            metrics = ClassificationMetrics(100)
            for part, wanted in zip(logits.split(256), targets.split(256), strict=True):
                metrics.update(part, wanted)
            metrics.compute()

        found["opening a folder"][n] = lambda n=n: open_data(str(folder / str(n)), kind="labels")
        found["classification metrics"][n] = judge
    return found


def grown(runs: dict[float, Run], o: Options) -> dict[str, Any]:
    """Seconds and peak memory by size, and their exponents."""
    turns = take_turns({str(size): run for size, run in runs.items()}, o.rounds, warmup=1, clock=o.clock)
    seconds = [turns[str(size)].median for size in runs]
    memory = [peak_memory(run) for run in runs.values()]
    sizes = list(runs)
    found: dict[str, Any] = {"sizes": sizes, "seconds": seconds, "bytes": memory, "turns": turns.to_dict()}
    found["time"] = (exponent(sizes, seconds), exponent(sizes[-2:], seconds[-2:]))
    known = [(size, m) for size, m in zip(sizes, memory, strict=True) if m]
    if len(known) > 1:
        xs, ys = zip(*known, strict=True)
        found["memory"] = (exponent(xs, ys), exponent(xs[-2:], ys[-2:]))
    return found


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "growth", __doc__)
    results: dict[str, Any] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "tokens": lambda: by_tokens(o),
            "batch": lambda: by_batch(o),
            "boxes": lambda: by_boxes(o),
            "images": lambda: by_images(o, Path(folder)),
        }
        for what in o.what:
            results[what] = {name: grown(runs, o) for name, runs in makers[what]().items()}
            print(f"\n### by {what}\n\n{lines(results[what])}", flush=True)
    print(f"\n{time.perf_counter() - begun:.0f} s")
    write(o.json, {"options": asdict(o), "results": results})


def lines(found: dict[str, dict[str, Any]]) -> str:
    sizes = next(iter(found.values()))["sizes"]
    head = ["what", *(f"{size:g}" for size in sizes), "exponent", "of the last two"]
    rows = []
    for name, f in found.items():
        rows.append([f"{name}, ms", *(f"{1e3 * s:.3g}" for s in f["seconds"]), *(f"{p:.2f}" for p in f["time"])])
        if "memory" in f:
            told = ["" if m is None else f"{m / 2**20:.3g}" for m in f["bytes"]]
            rows.append([f"{name}, MiB", *told, *(f"{p:.2f}" for p in f["memory"])])
    return table(head, rows)
