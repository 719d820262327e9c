"""YOLO: the rules of data.yaml, lines of every kind, and files of strangers (FAULTS row 57)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.by_hand import Picture, write_image, yolo
from vit.data.boxes.annotations.yolo import Row, parse
from vit.data.boxes.annotations.yolo_data import label_file
from vit.data.check.findings import Findings
from vit.data.open import open_data
from vit.errors import UserError

TRAIN = [Picture("a.png", (40, 30), [(5, 6, 15, 14, "dog")]), Picture("b.png", (50, 32), [(0, 0, 50, 32, "cat")])]
VAL = [Picture("v.png", (40, 30), [(5, 6, 15, 14, "dog")])]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    yolo(tmp_path / "set", {"train": TRAIN, "val": VAL})
    return tmp_path / "set"


def names(images: object) -> list[str]:
    return [os.path.basename(images.name(i)) for i in range(len(images))]  # pyright: ignore


def test_where_labels_lie():
    """Only the last folder of that name counts, and only a whole one."""
    assert label_file("/images/x/images/train/a.b.jpg") == "/images/x/labels/train/a.b.txt"
    assert label_file("/my_images/x/a.jpg") == "/my_images/x/a.txt"


@pytest.mark.parametrize(
    "head",
    [
        "train: images/train\nval: images/val",
        "path: .\ntrain: images/train/\nval: [images/val]",
        "path: ../set\ntrain: images/train\nval: images/val",
        "path: /content/set\ntrain: images/train\nval: images/val",
        "path: ''\ntrain: ../images/train\nval: ../images/val",
        "train: train.txt\nval: images/val",
        "train: [images/train]\nval: images/val\ntest: images/gone",
        "{root}train: {root}/images/train\nval: {root}/images/val",
    ],
)
def test_paths_as_ultralytics_has_them(root: Path, head: str):
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
    head = head.replace("{root}train", "train").replace("{root}", str(root))
    (root / "data.yaml").write_text(head + "\nnames: {0: cat, 1: dog}\n")
    data = open_data(str(root), kind="boxes")
    assert names(data.train) == ["a.png", "b.png"] and names(data.val) == ["v.png"]
    assert data.train.annotation(0).boxes.tolist() == [[5, 6, 15, 14]]
    assert any("images/gone" in note for note in data.notes) == ("gone" in head)
    assert open_data(str(root / "data.yaml"), kind="boxes").train.fingerprint() == data.train.fingerprint()


def test_the_current_folder_counts_for_a_relative_path(root: Path, monkeypatch: pytest.MonkeyPatch):
    file = root.parent / "elsewhere" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("path: set\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    monkeypatch.chdir(root.parent)
    assert names(open_data(str(file), kind="boxes").train) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("path", "message"), [("images/nothing", "not there"), ("https://x.org/a.zip", "Download the")]
)
def test_images_that_are_not_there(root: Path, path: str, message: str):
    (root / "data.yaml").write_text(f"train: images/train\nval: {path}\nnames: [cat, dog]\n")
    with pytest.raises(UserError, match=message):
        open_data(str(root), kind="boxes")


def test_names_and_gapped_numbers(root: Path):
    """Row 7: a number keeps its value, whatever its position."""
    (root / "labels/train/a.txt").write_text("12 0.25 0.5 0.25 0.25\n")
    (root / "labels/train/b.txt").write_text("4 0.25 0.5 0.25 0.25\n")
    (root / "labels/val/v.txt").unlink()
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {12: red fox, 4: '7'}\n")
    data = open_data(str(root), kind="boxes")
    assert (data.classes, data.category_ids) == (("7", "red fox"), (4, 12))
    assert data.train.annotation(0).labels.tolist() == [1]
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 13\n")
    assert open_data(str(root), kind="boxes").classes[12] == "class_12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [yes, dog]", "names: 0 is a bool. Put the name into quotes"),
        ("names: [cat, cat]", "names a class twice: cat"),
        ("names: [cat, dog]\nnc: 3", "nc is 3, but there are 2 names"),
        ("names: {a: cat}", "'a' is not a new whole number"),
        ("names: [[cat]]", "names: 0 is a list"),
        ("names: cat", "names must be a list"),
        ("names: [cat", "cannot be read as YAML"),
        ("names: [cat, dog]\npath: [x]", "path must be a folder, not a list"),
    ],
)
def test_a_description_that_is_wrong(root: Path, text: str, message: str):
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{text}\n")
    with pytest.raises(UserError, match=message):
        open_data(str(root), kind="boxes")


def test_code_and_urls_are_never_run(root: Path, tmp_path: Path):
    """Row 57: a tag that would call a function, and the key `download`, which Ultralytics executes."""
    target = tmp_path / "was_here"
    head = "train: images/train\nval: images/val\n"
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system"):
        (root / "data.yaml").write_text(f"{head}names: {tag} ['touch {target}']\n")
        with pytest.raises(UserError, match="a tag that is not plain data and is never run"):
            open_data(str(root), kind="boxes")
    (root / "data.yaml").write_text(
        f"{head}names: [cat, dog]\ndownload: |\n  import pathlib\n  pathlib.Path({str(target)!r}).touch()\n"
    )
    findings = Findings()
    data = open_data(str(root), findings=findings, kind="boxes")
    assert len(data.train) == 2 and [(f.id, f.names) for f in findings] == [("yaml-code", ["download"])]
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (root / "data.yaml").write_text(f"a: &a [x]\n{bomb}{head}names: *i\n")
    with pytest.raises(UserError, match="names: 0 is a list"):
        open_data(str(root), kind="boxes")
    assert not target.exists()


def test_a_folder_without_a_description(root: Path):
    """labelImg and Label Studio write classes.txt."""
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    data = open_data(str(root), kind="boxes")
    assert names(data.train) == ["a.png", "b.png"] and names(data.val) == ["v.png"]
    assert data.classes == ("cat", "dog") and data.train.annotation(0).labels.tolist() == [1]


def test_negatives_and_label_files_without_an_image(root: Path):
    """Rows 10 and 17."""
    write_image(root / "images/train/sub/bare.JPG", (20, 20), 7)
    (root / "labels/train/gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels/train/classes.txt").write_text("cat\n")
    findings = Findings()
    data = open_data(str(root), findings=findings, kind="boxes")
    assert data.train.targets.tolist() == [1, 1, 0]
    assert [(f.id, [os.path.basename(n) for n in f.names]) for f in findings] == [("annotation-unlisted", ["gone.txt"])]


def test_lines_of_every_kind():
    box = parse("3 0.5 0.5 0.2 0.4")
    assert isinstance(box, Row) and box.label == 3
    assert np.allclose(box.box, (0.4, 0.3, 0.6, 0.7)) and np.isnan(box.area)
    triangle = parse("0 0.1 0.1 0.5 0.1 0.1 0.3")
    assert isinstance(triangle, Row) and triangle.box == (0.1, 0.1, 0.5, 0.3)
    assert triangle.area == pytest.approx(0.04)
    pose = parse("0 0.5 0.5 0.2 0.4 " + "0.1 0.1 2 " * 3, keypoints=9)
    assert isinstance(pose, Row) and np.allclose(pose.box, (0.4, 0.3, 0.6, 0.7))
    assert isinstance(parse("1.0 0.5 0.5 0.2 0.4"), Row)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2", "4 numbers, not 5 numbers"),
        ("0 0.5 0.5 0.2 0.4 0.9", "6 numbers, not 5 numbers"),
        ("cat 0.5 0.5 0.2 0.4", "is not numbers"),
        ("0.5 0.5 0.5 0.2 0.4", "the class 0.5 is not a whole number"),
        ("nan 0.5 0.5 0.2 0.4", "the class nan"),
    ],
)
def test_lines_that_are_wrong(root: Path, line: str, reason: str):
    (root / "labels/train/a.txt").write_text(f"\n0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(UserError, match=rf"a.txt, line 3: .*{reason}"):
        open_data(str(root), kind="boxes")
    assert open_data(str(root), findings=Findings(), kind="boxes").train.targets.tolist() == [1, 1]


def test_pixels_in_place_of_shares(root: Path):
    (root / "labels/train/a.txt").write_text("0 20 15 8 6\n")
    with pytest.raises(UserError, match=r"beyond 2, where shares .*: 1 \(.*a.txt, line 1\). Divide pixels"):
        open_data(str(root), kind="boxes")


def test_polygons_become_boxes_with_their_own_area(root: Path):
    """The area is that of the outline, as COCO's is."""
    (root / "labels/train/a.txt").write_text("1 0.25 0.2 0.75 0.2 0.75 0.8\n")
    truth = open_data(str(root), kind="boxes").train.annotation(0)
    assert np.allclose(truth.boxes, [[10, 6, 30, 24]])
    assert truth.area.tolist() == [pytest.approx(20 * 18 / 2)]


def test_several_descriptions_and_other_yaml(root: Path):
    (root / "config.yaml").write_text("epochs: 3\n")
    assert len(open_data(str(root), kind="boxes").train) == 2
    (root / "small.yaml").write_text(f"train: images/val\nval: images/val\nnames: {json.dumps(['cat', 'dog'])}\n")
    with pytest.raises(UserError, match=r"several descriptions \(.*data.yaml, .*small.yaml\). Give one"):
        open_data(str(root), kind="boxes")
    assert names(open_data(str(root / "small.yaml"), kind="boxes").train) == ["v.png"]
