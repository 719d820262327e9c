"""One set in every format gives the same targets, and every fault (FAULTS rows 6 to 24) the same finding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.by_hand import FORMAT, NAMES, WRITERS, Picture
from vit.data.check.findings import Findings
from vit.data.formats import recognized
from vit.data.open import has_boxes, open_data, reopen
from vit.data.sets.data import DetectionData
from vit.errors import UserError

PARTS = {
    "train": [
        Picture("a.png", (40, 30), [(5, 6, 15, 14, "dog"), (0, 0, 40, 30, "cat"), (20.5, 3.25, 38.125, 28, "red fox")]),
        Picture("b ü.PNG", (50, 32)),
        Picture("c.d.png", (33, 47), [(1, 2, 30, 45, "cat")]),
    ],
    "val": [Picture("e.png", (40, 30), [(5, 6, 15, 14, "dog")])],
    "test": [Picture("f.png", (40, 30), [(7, 7, 9, 9, "red fox"), (7, 7, 10, 11, "cat")])],
}
CROWDS = [name for name in WRITERS if name != "yolo"]
"""YOLO has no crowds."""
SIZED = CROWDS
"""Formats that tell the size of an image."""


def write(root: Path, name: str, *pictures: Picture, **options: Any) -> str:
    WRITERS[name](root / name, {"train": list(pictures), "val": PARTS["val"]}, **options)
    return str(root / name)


def opened(source: str) -> tuple[DetectionData, Findings]:
    """What is wrong is only counted."""
    findings = Findings()
    return open_data(source, findings=findings, kind="boxes"), findings


def flat(data: DetectionData) -> list[Any]:
    """Everything that training sees of a set."""
    rows = []
    for split, images in data.splits().items():
        for i in range(len(images)):
            truth = images.annotation(i)
            columns = [column.tolist() for column in truth]
            rows.append((split, Path(images.name(i)).name, images.image(i).shape, images.sizes[i].tolist(), *columns))
    return rows


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_targets_from_every_format(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name, PARTS)
    source = str(tmp_path / name)
    assert recognized(source, "boxes").name == FORMAT.get(name, name)
    data, findings = opened(source)
    assert list(findings) == []
    assert data.classes == NAMES
    expected = []
    for split, pictures in PARTS.items():
        for p in pictures:
            width, height = p.size
            boxes = [list(map(float, box[:4])) for box in p.boxes]
            labels, crowd = [NAMES.index(box[4]) for box in p.boxes], [False] * len(p.boxes)
            area = [(right - x) * (bottom - y) for x, y, right, bottom in boxes]
            expected.append((split, p.name, (height, width, 3), [height, width], boxes, labels, crowd, area))
    assert flat(data) == expected
    again = reopen(data.record, kind="boxes")
    assert not any("has changed" in note for note in again.notes)
    assert reopen(data.record, format=FORMAT.get(name, name), kind="boxes").record == data.record


def test_category_ids_keep_their_values(tmp_path: Path):
    """Row 7. Names alone are numbered from 1, YOLO's from 0; labels that are numbers stay what they are."""
    for name, ids in {"coco": (1, 2, 3), "voc": (1, 2, 3), "yolo": (0, 1, 2), "csv": (1, 2, 3)}.items():
        WRITERS[name](tmp_path / name, PARTS)
        assert open_data(str(tmp_path / name), kind="boxes").category_ids == ids


@pytest.mark.parametrize("name", ["csv", "voc", "jsonl", "objects"])
def test_labels_that_are_numbers_are_their_own_ids(tmp_path: Path, name: str):
    numbers: dict[str, Any] = {"cat": 11, "dog": 3, "red fox": 7}
    if name == "voc":
        numbers = {key: str(value) for key, value in numbers.items()}
    parts = {
        split: [Picture(p.name, p.size, [(*box[:4], numbers[box[4]]) for box in p.boxes]) for p in pictures]
        for split, pictures in PARTS.items()
    }
    WRITERS[name](tmp_path / name, parts)
    data = open_data(str(tmp_path / name), kind="boxes")
    assert (data.classes, data.category_ids) == (("3", "7", "11"), (3, 7, 11))
    assert data.train.annotation(0).labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize("name", ["voc", "csv", "jsonl", "yolo"])
def test_categories_may_be_pinned(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name, PARTS)
    order = "cat,dog,red fox" if name == "yolo" else "dog,unused,cat,red fox"
    lines = [f"{k},{label}" for k, label in zip((9, 4, 70, 0), order.split(","), strict=False)]
    (tmp_path / name / "categories.csv").write_text("id,name\n" + "\n".join(lines) + "\n")
    data = open_data(str(tmp_path / name), kind="boxes")
    assert data.classes == tuple(order.split(","))
    assert data.category_ids == (9, 4, 70, 0)[: len(data.classes)]
    assert [data.classes[k] for k in data.train.annotation(0).labels] == ["dog", "cat", "red fox"]
    (tmp_path / name / "categories.csv").write_text("id,name\n1,cat\n1,dog\n")
    with pytest.raises(UserError, match=r"categories.csv, line 3: \['1', 'dog'\] is not a new id"):
        open_data(str(tmp_path / name), kind="boxes")


@pytest.mark.parametrize("name", WRITERS)
def test_boxes_without_extent_are_dropped_and_counted(tmp_path: Path, name: str):
    """Row 12."""
    bad = [(5, 5, 5, 9, "cat"), (5, 9, 9, 5, "cat"), (45, 5, 60, 9, "dog")]
    data, findings = opened(write(tmp_path, name, Picture("a.png", boxes=[*bad, (1, 1, 9, 9, "dog")])))
    assert data.train.annotation(0).boxes.tolist() == [[1, 1, 9, 9]]
    assert [(f.id, f.count, f.of) for f in findings] == [("box-empty", 3, 4)]
    assert all("a.png, " in place for place in next(iter(findings)).names)


@pytest.mark.parametrize("name", WRITERS)
def test_boxes_that_are_not_finite(tmp_path: Path, name: str):
    """Row 13."""
    bad = [(5, float("nan"), 9, 9, "cat"), (5, 5, float("inf"), 9, "cat")]
    source = write(tmp_path, name, Picture("a.png", boxes=[*bad, (1, 1, 9, 9, "dog")]))
    data, findings = opened(source)
    assert data.train.annotation(0).boxes.tolist() == [[1, 1, 9, 9]]
    assert [(f.id, f.count, f.severity) for f in findings] == [("box-not-finite", 2, "warning")]
    strict = Findings(strict=["box-not-finite"])
    open_data(source, kind="boxes", findings=strict)
    with pytest.raises(UserError, match="boxes with NaN or infinity, left out: 2 of 3"):
        strict.raise_errors()


@pytest.mark.parametrize("name", WRITERS)
def test_boxes_beyond_the_image_are_clipped(tmp_path: Path, name: str):
    """Row 14."""
    inside = [(1, 1, 9, 9, "dog")] * 3
    data, findings = opened(write(tmp_path, name, Picture("a.png", boxes=[(-4, 20, 60, 33, "cat"), *inside])))
    assert data.train.annotation(0).boxes[0].tolist() == [0, 20, 40, 30]
    assert [(f.id, f.count, f.severity) for f in findings] == [("box-beyond", 1, "warning")]


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_and_difficult_objects(tmp_path: Path, name: str):
    """Row 16."""
    data = open_data(
        write(tmp_path, name, Picture("a.png", boxes=[(1, 1, 9, 9, "dog", 1), (2, 2, 8, 8, "cat")])), kind="boxes"
    )
    assert data.train.annotation(0).crowd.tolist() == [True, False]
    assert data.train.counts().sum() == 1


@pytest.mark.parametrize("name", WRITERS)
def test_listed_images_that_are_missing(tmp_path: Path, name: str):
    """Row 11. YOLO lists images by their files, or in a list."""
    gone = [Picture(f"gone{i:02}.png", boxes=[(1, 1, 9, 9, "cat")], file=False) for i in range(12)]
    source = write(tmp_path, name, Picture("a.png", boxes=[(1, 1, 9, 9, "dog")]), *gone)
    if name == "yolo":
        names = "".join(f"./images/train/{picture.name}\n" for picture in (Picture("a.png"), *gone))
        (tmp_path / "yolo/train.txt").write_text(names)
        file = tmp_path / "yolo/data.yaml"
        file.write_text(file.read_text().replace("train: images/train", "train: train.txt"))
    with pytest.raises(UserError, match=r"not on disk: 12 of 13 \(.*gone00.*gone09.*and 2 more\)"):
        open_data(source, kind="boxes")
    assert len(opened(source)[0].train) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_no_bytes_are_left_out(tmp_path: Path, name: str):
    """Row 21."""
    source = write(tmp_path, name, Picture("a.png"), Picture("b.png", boxes=[(1, 1, 9, 9, "dog")]))
    next(Path(source).rglob("a.png")).write_bytes(b"")
    data, findings = opened(source)
    assert [f.id for f in findings] == ["file-empty"] and "a.png" in next(iter(findings)).names[0]
    assert data.train.annotation(0).labels.tolist() == [data.classes.index("dog")]


@pytest.mark.parametrize("name", SIZED)
def test_another_size_than_the_annotations_say(tmp_path: Path, name: str):
    """Row 18."""
    source = write(tmp_path, name, Picture("a.png", (40, 30), [(1, 1, 9, 9, "dog")], told=(30, 40)))
    with pytest.raises(UserError, match=r"a.png: the image is 40x30 pixels, its annotations say 30x40. .*EXIF"):
        open_data(source, kind="boxes")


@pytest.mark.parametrize("name", WRITERS)
def test_exif_is_applied_once_and_boxes_agree(tmp_path: Path, name: str):
    """Row 24: the file holds 30 x 40 pixels and a turn; boxes are those of the upright 40 x 30."""
    source = write(tmp_path, name, Picture("a.jpg", (40, 30), [(30, 0, 40, 30, "dog")]))
    turned, exif = np.zeros((40, 30, 3), np.uint8), Image.Exif()
    turned[:10] = 255
    exif[0x0112] = 6
    Image.fromarray(turned).save(next(Path(source).rglob("a.jpg")), exif=exif, quality=95)
    train = open_data(source, kind="boxes").train
    x, y, right, bottom = train.annotation(0).boxes[0].astype(int).tolist()
    image = train.image(0)
    assert image.shape == (30, 40, 3)
    assert image[y:bottom, x:right].mean() > 200 and image[:, : x - 4].mean() < 20


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "csv"])
def test_labels_that_are_no_class(tmp_path: Path, name: str):
    """Row 6: the file, the line and the allowed range."""
    bad = {"coco": 9, "yolo": 9}.get(name, "wolf")
    source = write(tmp_path, name, Picture("a.png", boxes=[(1, 1, 9, 9, "dog"), (1, 1, 9, 9, bad)]))
    if name in ("voc", "csv"):
        (tmp_path / name / "categories.csv").write_text("id,name\n1,cat\n2,dog\n3,red fox\n")
    place = {"coco": "annotation 2", "yolo": "line 2", "voc": "object 2", "csv": "line 3"}[name]
    bad = "class 9" if name == "yolo" else bad
    allowed = r"0..2: 0 cat, 1 dog" if name == "yolo" else r"1 \(cat\), 2 \(dog\)"
    with pytest.raises(UserError, match=rf"no class: 1 of 2 \(.*a.png, {place}: {bad}\). Allowed are {allowed}"):
        open_data(source, kind="boxes")


@pytest.mark.parametrize("name", ["voc", "csv", "jsonl", "objects"])
def test_labels_that_only_val_has(tmp_path: Path, name: str):
    """Row 4, where the labels that occur are the classes."""
    with pytest.raises(UserError, match=r"not every split has: 1 \(dog only in val. Did you mean \"dogs\"\?\)"):
        open_data(write(tmp_path, name, Picture("a.png", boxes=[(1, 1, 9, 9, "dogs")])), kind="boxes")


def test_an_ambiguous_folder_lists_what_was_seen(tmp_path: Path):
    WRITERS["coco"](tmp_path / "x", PARTS)
    WRITERS["yolo"](tmp_path / "x", PARTS)
    with pytest.raises(UserError, match=r"(?s)2 formats.*coco: train/_.*yolo: data.yaml.*coco or --format yolo"):
        open_data(str(tmp_path / "x"), kind="boxes")
    assert open_data(str(tmp_path / "x"), format="yolo", kind="boxes").record["format"] == "yolo"
    with pytest.raises(UserError, match=r"no format 'yollo'. Did you mean \"yolo\"\?"):
        open_data(str(tmp_path / "x"), format="yollo", kind="boxes")


def test_a_format_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"no annotations of boxes were found.*coco: .*yolo: .*voc: .*csv: "):
        open_data(str(tmp_path), kind="boxes")
    for name in ("coco", "yolo", "voc", "csv", "jsonl"):
        with pytest.raises(UserError, match="xpected"):
            open_data(str(tmp_path), format=name, kind="boxes")


def test_labels_and_boxes_are_told_apart(photos: Path, tmp_path: Path):
    """What has labels only is left to the other readers."""
    (tmp_path / "labels.csv").write_text("path,label\na.png,cat\n")
    (tmp_path / "labels.jsonl").write_text('{"path": "a.png", "label": "cat"}\n')
    for name in ("labels.csv", "labels.jsonl", "."):
        assert not has_boxes(str(tmp_path / name))
    assert not has_boxes(str(photos)) and has_boxes("scenes")
    for name, write_set in WRITERS.items():
        write_set(tmp_path / name, PARTS)
        assert has_boxes(str(tmp_path / name))
    assert has_boxes(str(tmp_path / "csv/train.csv")) and has_boxes(str(tmp_path / "jsonl/train.jsonl"))
    assert not has_boxes(str(tmp_path / "csv"), "folder")
