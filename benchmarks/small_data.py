"""From scratch on little: `train.py folder --data DIR` with no other option, on 350, 1,000 and 3,500 of the training
digits written out as PNG folders, against timm's VisionTransformer and a small CNN.

The rivals are shown as many images as our recipe shows its model, through the same augmentation and loader (the CNN
with the same mixup, timm's ViT without, as is timm's default), under timm's AdamW and cosine schedule; timm's model has
the width, depth and number of tokens of ours (patches of 7, which do better on so little than patches of 4). The best
epoch on the 500 validation digits counts for the rivals; all figures are of the 1,000 test digits. All train in
float32, whatever the machine would choose.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

import torch
from PIL import Image

import vit
from benchmarks.contest import parsed, write
from benchmarks.peers import contestant, small_cnn, timm_vit
from vit.data import Data, open_data
from vit.tasks.classification.settle import epochs_for


@dataclass(frozen=True)
class SmallData:
    sizes: tuple[int, ...] = (350, 1000, 3500)
    seeds: tuple[int, ...] = (0, 1, 2)
    models: tuple[Literal["ours", "timm", "cnn"], ...] = ("ours", "timm", "cnn")
    json: str | None = None


def write_folders(folder: Path, data: Data, n: int) -> None:
    """n training digits, the same number of each class, and all validation and test digits, as PNG files."""
    for split, images in data.splits().items():
        kept = [0] * len(data.classes)
        for i in range(len(images)):
            label = int(images.targets[i])
            if split == "train" and kept[label] >= n // len(data.classes):
                continue
            kept[label] += 1
            place = folder / split / data.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.image(i)[:, :, 0]).save(place / f"{i}.png")


def ours(folder: Path, seed: int) -> float:
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        return vit.train("folder", data=folder, out=f"{out}/run", seed=seed, amp="none")["top1"]


def rival(name: str, folder: Path, seed: int) -> float:
    data = open_data(str(folder), kind="labels")
    assert data.val is not None and data.test is not None
    torch.manual_seed(seed)
    model = timm_vit(28, 7, 10) if name == "timm" else small_cnn(10)
    epochs = epochs_for(len(data.train), 28)
    mixup = 0.2 if name == "cnn" else 0.0
    racer = contestant(
        name, model, data.train, data.val, side=28, epochs=epochs, seed=seed, augment="glyph", mixup=mixup
    )
    final = contestant(name, model, data.train, data.test, side=28, epochs=1, seed=seed, augment="none")
    best, at_best = -1.0, 0.0
    for epoch in range(epochs):
        racer.epoch()
        if (epoch + 1) % max(1, epochs // 30) == 0:
            val = racer.score()
            if val >= best:
                best, at_best = val, final.score()
    return at_best


def main(arguments: list[str]) -> None:
    o = parsed(SmallData, arguments, "small_data", __doc__)
    data = open_data("digits", kind="labels")
    scores: dict[str, dict[int, list[float]]] = {name: {} for name in o.models}
    for n in o.sizes:
        with tempfile.TemporaryDirectory() as place:
            write_folders(Path(place), data, n)
            for name in o.models:
                for seed in o.seeds:
                    top1 = ours(Path(place), seed) if name == "ours" else rival(name, Path(place), seed)
                    scores[name].setdefault(n, []).append(top1)
                    print(f"{name:<5} {n:>5} images, seed {seed}: {top1:.2%}", flush=True)
    print("\n| model | " + " | ".join(f"{n:,}" for n in o.sizes) + " |\n|---" * 1 + "|---" * len(o.sizes) + "|")
    for name, by_size in scores.items():
        cells = [f"{mean(by_size[n]):.2%} ({', '.join(f'{s:.1%}' for s in by_size[n])})" for n in o.sizes]
        print(f"| {name} | " + " | ".join(cells) + " |")
    write(o.json, {"scores": scores})
