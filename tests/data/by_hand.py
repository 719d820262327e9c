"""The same small detection set in every format, written by plain code of the tests' own."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

NAMES = ("cat", "dog", "red fox")
"""In alphabetical order, which is that of formats without numbers."""


@dataclass
class Picture:
    """boxes: (xmin, ymin, xmax, ymax, name[, crowd]) in pixels. told: the size (W, H) that annotations tell."""

    name: str
    size: tuple[int, int] = (40, 30)
    boxes: list[tuple[Any, ...]] = field(default_factory=list)
    told: tuple[int, int] | None = None
    file: bool = True

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_images(folder: Path, pictures: list[Picture], salt: int = 0) -> None:
    for k, picture in enumerate(pictures):
        if picture.file:
            write_image(folder / picture.name, picture.size, 100 * salt + k)


def coco(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root / split, pictures, salt)
        images, annotations = [], []
        for i, picture in enumerate(pictures, 1):
            width, height = picture.told or picture.size
            images.append({"id": i, "file_name": picture.name, "width": width, "height": height})
            for x, y, right, bottom, name, *crowd in picture.boxes:
                category = names.index(name) + 1 if name in names else name
                row = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
                row |= {"bbox": [x, y, right - x, bottom - y], "iscrowd": int(bool(crowd))}
                annotations.append(row)
        categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")


def voc(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    """Annotations, JPEGImages and ImageSets; images of different splits need different names."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root / "JPEGImages", pictures, salt)
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{p.stem}\n" for p in pictures), encoding="utf-8")
        for picture in pictures:
            (root / f"Annotations/{picture.stem}.xml").write_text(voc_xml(picture), encoding="utf-8")


def voc_xml(picture: Picture) -> str:
    width, height = picture.told or picture.size
    objects = "".join(
        f"<object><name>{escape(name)}</name><difficult>{int(bool(crowd))}</difficult><bndbox>"
        f"<xmax>{right}</xmax><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><ymax>{bottom}</ymax></bndbox></object>"
        for x, y, right, bottom, name, *crowd in picture.boxes
    )
    return (
        f"<annotation><filename>{escape(picture.name)}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def yolo(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root / "images" / split, pictures, salt)
        for picture in pictures:
            width, height = picture.size
            lines = [
                f"{names.index(name) if name in names else name} {(x + right) / 2 / width} {(y + bottom) / 2 / height} "
                f"{(right - x) / width} {(bottom - y) / height}\n"
                for x, y, right, bottom, name, *_ in picture.boxes
            ]
            file = root / "labels" / split / f"{picture.stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            if lines:
                file.write_text("".join(lines), encoding="utf-8")
    splits = "".join(f"{split}: images/{split}\n" for split in parts)
    (root / "data.yaml").write_text(f"path: .\n{splits}names: {json.dumps(list(names))}\n", encoding="utf-8")


def csv_table(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    root.mkdir(parents=True)
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root, pictures, salt)
        with open(root / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "xmin", "ymin", "xmax", "ymax", "label", "crowd", "width", "height"])
            for picture in pictures:
                size = picture.told or picture.size
                for x, y, right, bottom, name, *crowd in picture.boxes or [("", "", "", "", "")]:
                    writer.writerow([picture.name, x, y, right, bottom, name, int(bool(crowd)), *size])


def jsonl(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    root.mkdir(parents=True)
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root, pictures, salt)
        lines = []
        for picture in pictures:
            width, height = picture.told or picture.size
            line = {"image": picture.name, "boxes": [list(box[:4]) for box in picture.boxes]}
            line |= {"labels": [box[4] for box in picture.boxes], "crowd": [len(box) > 5 for box in picture.boxes]}
            lines.append(json.dumps({**line, "width": width, "height": height}) + "\n")
        (root / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def objects(root: Path, parts: dict[str, list[Picture]], names: tuple[str, ...] = NAMES) -> None:
    """metadata.jsonl as Hugging Face's image folders have it."""
    for salt, (split, pictures) in enumerate(parts.items()):
        write_images(root / split, pictures, salt)
        lines = []
        for picture in pictures:
            width, height = picture.told or picture.size
            boxes = [[x, y, right - x, bottom - y] for x, y, right, bottom, *_ in picture.boxes]
            things = {"bbox": boxes, "categories": [box[4] for box in picture.boxes]}
            things["iscrowd"] = [len(box) > 5 for box in picture.boxes]
            line = {"file_name": picture.name, "objects": things, "width": width, "height": height}
            lines.append(json.dumps(line) + "\n")
        (root / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


Writer = Callable[..., None]
WRITERS: dict[str, Writer] = {
    "coco": coco, "voc": voc, "yolo": yolo, "csv": csv_table, "jsonl": jsonl, "objects": objects,
}  # fmt: skip
FORMAT = {"objects": "jsonl"}
"""What a writer's format is called, where that differs."""
