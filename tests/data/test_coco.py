"""FAULTS rows 7 to 19 and 24: what a COCO file may have wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit.data.boxes.annotations.coco import read_coco
from vit.data.boxes.draft import settle
from vit.data.check.findings import Findings
from vit.data.open import open_data, reopen
from vit.errors import UserError

Write = Callable[..., Path]


def content(**changes: Any) -> dict[str, Any]:
    """Two images of 40 x 30 pixels, the second without boxes; categories 3 and 7."""
    base = {
        "images": [
            {"id": 10, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 11, "file_name": "b ü.PNG", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [5, 6, 10, 8], "area": 60.5, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 4, 4], "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    return {**base, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(values: dict[str, Any], split: str = "train", *, images: bool = True) -> Path:
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(values["images"] if images else ()):
            pixels = np.full((image["height"], image["width"], 3), (40 * i + sum(map(ord, split))) % 256, np.uint8)
            Image.fromarray(pixels).save(folder / image["file_name"])
        file = folder / "_annotations.coco.json"
        file.write_text(json.dumps(values))
        return file

    return to


def read(file: Path, *, strict: bool = True):
    """The images, the ids of the categories and the findings; strict: errors are raised."""
    findings = Findings()
    draft, categories = read_coco(str(file), [str(file.parent)], findings)
    images = settle(draft, categories, findings)
    if strict:
        findings.raise_errors()
    return images, categories.ids, findings


def test_boxes_labels_and_the_map_of_categories(write: Write):
    images, ids, findings = read(write(content()))
    assert images.classes == ("cat", "dog") and ids == (3, 7)  # row 7: gapped ids
    first, second = images.annotation(0), images.annotation(1)
    assert first.boxes.tolist() == [[5, 6, 15, 14], [0, 0, 4, 4]]
    assert first.labels.tolist() == [1, 0]
    assert first.area.tolist() == [60.5, 16.0]  # row 15: the second has none in the file
    assert len(second.labels) == 0 and second.boxes.shape == (0, 4)  # row 17
    assert images.image_id(1) == 11 and images.name(1).endswith("b ü.PNG")  # row 20
    assert images.counts().tolist() == [1, 1]
    assert list(findings) == []


def test_order_of_annotations_does_not_matter(write: Write):
    values = content()
    extra = {"id": 3, "image_id": 11, "category_id": 3, "bbox": [1, 2, 3, 4]}
    values["annotations"].insert(0, extra)
    images = read(write(values))[0]
    assert images.annotation(1).boxes.tolist() == [[1, 2, 4, 6]]
    assert len(images.annotation(0).labels) == 2
    swapped = images.select(np.array([1, 0]))
    assert swapped.annotation(0).boxes.tolist() == [[1, 2, 4, 6]]
    assert swapped.annotation(1).labels.tolist() == [1, 0]
    assert swapped.image_id(0) == 11


@pytest.mark.parametrize("ids", [(0, 1), (5, 5)])
def test_annotation_id_zero_or_twice(write: Write, ids: tuple[int, int]):
    values = content()
    for row, k in zip(values["annotations"], ids, strict=True):
        row["id"] = k
    images, _, findings = read(write(values))
    assert len(images.annotation(0).labels) == 2
    assert findings.count("annotation-id") == 1 and len(findings.notes()) == 1


def test_duplicate_image_ids(write: Write):
    values = content()
    values["images"][1]["id"] = 10
    with pytest.raises(UserError, match=r"_annotations.coco.json: image ids that occur twice: 1 of 2 \(10\)"):
        read(write(values))


def test_annotation_of_an_unlisted_image(write: Write):
    values = content()
    values["annotations"][0]["image_id"] = 99
    images, _, findings = read(write(values))
    assert len(images.annotation(0).labels) == 1
    assert [found.names for found in findings] == [["annotation 1: image 99"]]


def test_listed_images_that_are_missing(write: Write):
    values = content()
    values["images"] += [{"id": 20 + i, "file_name": f"gone{i}.png", "width": 4, "height": 4} for i in range(12)]
    file = write(content())
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"not on disk: 12 of 14 \(gone0.png.*gone9.png and 2 more\)"):
        read(file)


@pytest.mark.parametrize("box", [[5, 5, 0, 3], [5, 5, 3, -2], [50, 5, 3, 3]])
def test_boxes_without_area(write: Write, box: list[float]):
    values = content()
    values["annotations"][0]["bbox"] = box
    images, _, findings = read(write(values))
    assert len(images.annotation(0).labels) == 1
    assert [(found.id, found.names) for found in findings] == [("box-empty", ["a.png, annotation 1"])]


def test_boxes_that_are_not_finite(write: Write):
    values = content()
    values["annotations"][0]["bbox"] = [5, float("nan"), 3, 3]
    file = write(values)
    images, _, findings = read(file)
    assert len(images.annotation(0).labels) == 1
    assert findings.ids() == {"box-not-finite"} and "Warning" in findings.notes()[0]
    strict = Findings(strict=["box-not-finite"])
    open_data(str(file), kind="boxes", evaluation=True, findings=strict)
    with pytest.raises(UserError, match=r"NaN or infinity, left out: 1 of 2 \(a.png, annotation 1\)"):
        strict.raise_errors()


def test_boxes_beyond_the_image(write: Write):
    values = content()
    values["annotations"][0]["bbox"] = [-3, 20, 100, 20]
    images, _, findings = read(write(values))
    assert images.annotation(0).boxes[0].tolist() == [0, 20, 40, 30]
    assert "cut: 1 of 2 (a.png, annotation 1). Are they [x, y, width, height] in pixels?" in findings.notes()[0]
    values["annotations"] += [{**values["annotations"][1], "id": 3 + i} for i in range(118)]  # a hundredth is a note
    (note,) = read(write(values))[2].notes()
    assert "cut: 1 of 120" in note and "Warning" not in note
    values["annotations"] = content()["annotations"]
    values["annotations"][0]["bbox"] = [30.2, 20, 10, 10]  # a hair
    assert list(read(write(values))[2]) == []


def test_crowds_are_marked(write: Write):
    values = content()
    values["annotations"][0]["iscrowd"] = 1
    images = read(write(values))[0]
    assert images.annotation(0).crowd.tolist() == [True, False]
    assert images.counts().tolist() == [1, 0]


def test_another_size_than_the_file(write: Write):
    file = write(content())
    Image.new("RGB", (30, 40)).save(file.parent / "a.png")
    with pytest.raises(UserError, match=r"a.png: the image is 30x40 pixels, its annotations say 40x30. .*EXIF"):
        read(file)
    assert len(read(file, strict=False)[0]) == 2
    Image.new("RGB", (41, 30)).save(file.parent / "a.png")
    with pytest.raises(UserError, match=r"a.png: the image is 41x30 pixels"):
        read(file)


def test_exif_is_applied_once(write: Write):
    """Stored as 30 x 40 and turned by its EXIF, the image is 40 x 30 as the annotations say."""
    values = content()
    values["images"][0]["file_name"] = "a.jpg"
    file = write(values)
    turned = np.zeros((40, 30, 3), np.uint8)
    turned[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned).save(file.parent / "a.jpg", exif=exif, quality=95)
    image = read(file)[0].image(0)
    assert image.shape == (30, 40, 3)
    assert image[:, -8:].mean() > 200 and image[:, :25].mean() < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "not COCO's form; annotations must be"),
        ({"categories": []}, "there are no categories"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category id 1 occurs twice"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "category name a occurs twice"),
        ({"categories": [{"id": 7, "name": "dog"}]}, r"no class: 1 of 2 \(a.png, annotation 2: 3\). Allowed are 7"),
        ({"images": []}, "there are no images"),
    ],
)
def test_other_mistakes_are_named(write: Write, change: dict[str, Any], message: str):
    file = write(content())
    file.write_text(json.dumps(content(**change)))
    with pytest.raises(UserError, match=message):
        read(file)


def test_broken_json(write: Write):
    file = write(content())
    file.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read(file)


def test_folders_with_annotations_beside_the_images(write: Write, tmp_path: Path):
    write(content())
    write(content(), "valid")
    write(content(), "test")
    data = open_data(str(tmp_path / "set"), kind="boxes")
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 2, "val": 2, "test": 2}
    assert data.category_ids == (3, 7)
    again = reopen(data.record, kind="boxes")
    assert not any("has changed" in note for note in again.notes)
    (tmp_path / "set/test/_annotations.coco.json").write_text(json.dumps(content(images=content()["images"][:1])))
    assert any("has changed since training (in test)" in note for note in reopen(data.record, kind="boxes").notes)


def test_coco_folders(write: Write, tmp_path: Path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        file = write(content(), split)
        file.rename(root / "annotations" / f"instances_{split}.json")
        (root / "annotations" / f"captions_{split}.json").write_text("{}")
        file.parent.rename(root / split)
    data = open_data(str(root), kind="boxes")
    assert list(data.splits()) == ["train", "val"]
    assert data.train.image(0).shape == (30, 40, 3)


def test_one_file_is_split_by_its_names(write: Write):
    values = content()
    values["images"] = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(20)]
    values["annotations"] = [{"id": i + 1, "image_id": i, "category_id": 3, "bbox": [1, 1, 4, 4]} for i in range(18)]
    data = open_data(str(write(values)), kind="boxes")
    assert len(data.train) == 15 and len(data.val) == 5  # 4 of the 18 with a box, 1 of the 2 without
    assert data.train.targets.max() == 1  # the number of boxes, as before the split
    whole = open_data(str(write(values)), evaluation=True, kind="boxes")
    assert len(whole.test) == 20 and whole.train is None


def test_splits_with_other_categories(write: Write, tmp_path: Path):
    write(content())
    write(content(categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}]), "valid")
    with pytest.raises(UserError, match=r"not every split has: 2 \(dog \(7\) only in .*, cow \(7\) only in "):
        open_data(str(tmp_path / "set"), kind="boxes")


def test_the_same_image_in_two_splits(write: Write, tmp_path: Path):
    train = write(content())
    valid = write(content(), "valid")
    (valid.parent / "a.png").write_bytes((train.parent / "a.png").read_bytes())
    assert any("1 files are in two splits" in note for note in open_data(str(tmp_path / "set"), kind="boxes").notes)


def test_missing_data_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no such data"):
        open_data(str(tmp_path / "nothing"), kind="boxes")
    with pytest.raises(UserError, match="no annotations of boxes were found"):
        open_data(str(tmp_path), kind="boxes")


def test_relabel_by_the_models_classes(write: Write):
    images = read(write(content()))[0]
    images.relabel(["dog", "bird", "cat"])
    assert images.annotation(0).labels.tolist() == [0, 2]
    with pytest.raises(UserError, match="no class dog"):
        images.relabel(["cat"])
