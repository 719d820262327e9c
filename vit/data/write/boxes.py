"""Writes images with boxes as COCO, YOLO, Pascal VOC or CSV. Reading them again gives the same targets.

Notes report what a format cannot store. YOLO has no crowds, and only COCO has areas of outlines.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import yaml

from vit.data.boxes.annotations.yolo_data import label_file
from vit.data.boxes.named_classes import PINNED, categories_of
from vit.data.sets.boxset import Annotation
from vit.data.write.numbers import plain, shortest
from vit.data.write.output import FileNames, Images, put_image


class Job(NamedTuple):
    """What to write."""

    splits: Mapping[str, Any]
    """BoxSets."""
    category_ids: tuple[int, ...]
    out: str
    images: Images

    @property
    def classes(self) -> tuple[str, ...]:
        return next(iter(self.splits.values())).classes


class Item(NamedTuple):
    """One image of a split. name: its file name; size: (H, W)."""

    i: int
    name: str
    size: tuple[int, int]
    truth: Annotation


def write_coco(job: Job) -> list[str]:
    """OUT/annotations/instances_SPLIT.json, with the images in OUT/SPLIT. Returns notes for the user."""
    os.makedirs(os.path.join(job.out, "annotations"))
    categories = [{"id": k, "name": name} for k, name in zip(job.category_ids, job.classes, strict=True)]
    for split, images in job.splits.items():
        pictures, annotations = [], []
        for item in _items(job, split, split):
            number, (height, width) = images.image_id(item.i), item.size
            pictures.append({"id": number, "file_name": item.name, "width": width, "height": height})
            corners = item.truth.boxes.astype(np.float64)
            sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
            for k, box in enumerate(shortest(sides, _from_sides, item.truth.boxes).tolist()):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": job.category_ids[item.truth.labels[k]],
                        "bbox": list(map(plain, box)),
                        "area": plain(float(str(item.truth.area[k]))),
                        "iscrowd": int(item.truth.crowd[k]),
                    }
                )
        content = {"images": pictures, "annotations": annotations, "categories": categories}
        with open(os.path.join(job.out, "annotations", f"instances_{split}.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
    return []


def write_yolo(job: Job) -> list[str]:
    """OUT/data.yaml, with OUT/images/SPLIT and OUT/labels/SPLIT."""
    dropped = 0
    for split in job.splits:
        for item in _items(job, split, f"images/{split}"):
            kept = ~item.truth.crowd
            dropped += int((~kept).sum())
            lines = _yolo_lines(item.truth.boxes[kept], item.truth.labels[kept].tolist(), item.size)
            path = label_file(os.path.join(job.out, "images", split, item.name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(lines)
    content = {**{split: f"images/{split}" for split in job.splits}, "names": dict(enumerate(job.classes))}
    with open(os.path.join(job.out, "data.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
    if job.category_ids != tuple(range(len(job.classes))):
        _pin(job)
    return [f"{dropped:,} crowd boxes are left out: YOLO has no such thing."] if dropped else []


def write_voc(job: Job) -> list[str]:
    """OUT/Annotations, OUT/JPEGImages and OUT/ImageSets/Main/SPLIT.txt; with one folder per split if names clash."""
    stems = [{os.path.splitext(item)[0].lower() for item in _names(images)} for images in job.splits.values()]
    apart = sum(map(len, stems)) > len(set().union(*stems))
    lists = os.path.join(job.out, "ImageSets", "Main")
    os.makedirs(lists)
    for split in job.splits:
        within = f"{split}/" if apart else ""
        with open(os.path.join(lists, f"{split}.txt"), "w", encoding="utf-8") as listed:
            for item in _items(job, split, f"JPEGImages/{within}"):
                stem = within + os.path.splitext(item.name)[0]
                listed.write(f"{stem}\n")
                path = os.path.join(job.out, "Annotations", f"{stem}.xml")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(_voc_xml(item, job.classes))
    return _pin_names(job)


def write_csv(job: Job) -> list[str]:
    """OUT/SPLIT.csv, with the images in OUT/SPLIT."""
    crowds = any(images.annotation(i).crowd.any() for images in job.splits.values() for i in range(len(images)))
    header = ["image", "xmin", "ymin", "xmax", "ymax", "label"] + ["crowd"] * crowds
    for split in job.splits:
        with open(os.path.join(job.out, f"{split}.csv"), "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for item in _items(job, split, split):
                name, boxes = f"{split}/{item.name}", item.truth.boxes
                numbers = shortest(boxes.astype(np.float64), lambda values: values, boxes).tolist()
                for box, label, crowd in zip(numbers, item.truth.labels, item.truth.crowd.tolist(), strict=True):
                    writer.writerow([name, *map(plain, box), job.classes[label], *[int(crowd)] * crowds])
                if not numbers:
                    writer.writerow([name, *[""] * (len(header) - 1)])
    return _pin_names(job)


WRITERS: dict[str, Callable[[Job], list[str]]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "csv": write_csv,
}


def _items(job: Job, split: str, folder: str) -> Iterator[Item]:
    """Put every image of a split into OUT/folder, and yield it."""
    images = job.splits[split]
    os.makedirs(os.path.join(job.out, folder), exist_ok=True)
    sizes = getattr(images, "sizes", None)
    for i, name in enumerate(_names(images)):
        put_image(images, i, os.path.join(job.out, folder, name), job.images)
        height, width = images.image(i).shape[:2] if sizes is None else sizes[i].tolist()
        yield Item(i, name, (height, width), images.annotation(i))


def _names(images: Any) -> Iterator[str]:
    names = FileNames(images)
    return (names.of(i) for i in range(len(images)))


def _from_sides(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1)


def _yolo_lines(boxes: np.ndarray, labels: list[int], size: tuple[int, int]) -> list[str]:
    extent = np.array([size[1], size[0]] * 2, np.float64)
    corners = boxes.astype(np.float64)
    center, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    values = np.concatenate([center, sides], axis=1) / np.maximum(extent, 1)

    def back(shares: np.ndarray) -> np.ndarray:
        half = shares[:, 2:] / 2
        xyxy = np.concatenate([shares[:, :2] - half, shares[:, :2] + half], axis=1) * extent
        return np.clip(xyxy, 0, extent)

    rows = shortest(values, back, boxes).tolist()
    return [f"{label} {' '.join(map(repr, map(plain, row)))}\n" for label, row in zip(labels, rows, strict=True)]


def _voc_xml(item: Item, classes: tuple[str, ...]) -> str:
    boxes = item.truth.boxes
    values = shortest(boxes + np.array([1.0, 1, 0, 0]), lambda v: v - np.array([1.0, 1, 0, 0]), boxes).tolist()
    folder, _, filename = item.name.rpartition("/")
    lines = [
        "<annotation>",
        f"  <folder>{escape(folder or 'JPEGImages')}</folder>",
        f"  <filename>{escape(filename)}</filename>",
        f"  <size><width>{item.size[1]}</width><height>{item.size[0]}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for box, label, crowd in zip(values, item.truth.labels.tolist(), item.truth.crowd.tolist(), strict=True):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), map(plain, box), strict=True)
        lines += [
            "  <object>",
            f"    <name>{escape(classes[label])}</name>",
            "    <pose>Unspecified</pose>",
            "    <truncated>0</truncated>",
            f"    <difficult>{int(crowd)}</difficult>",
            f"    <bndbox>{''.join(f'<{side}>{value}</{side}>' for side, value in corners)}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _pin_names(job: Job) -> list[str]:
    """Write the classes and ids to a file if they cannot be recovered from the labels that occur."""
    here = {
        split: {images.classes[k] for i in range(len(images)) for k in images.annotation(i).labels.tolist()}
        for split, images in job.splits.items()
    }
    everywhere = set().union(*here.values())
    found = categories_of(everywhere)
    if (found.names, found.ids) == (job.classes, job.category_ids) and here.get("train", everywhere) == everywhere:
        return []
    return _pin(job)


def _pin(job: Job) -> list[str]:
    with open(os.path.join(job.out, PINNED), "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "name"), *zip(job.category_ids, job.classes, strict=True)])
    return [f"{PINNED} keeps the ids and the order of the classes."]
