"""Parquet files with `objects`, in the forms that Hugging Face's `datasets` has written them over the years."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit.data.check.findings import Findings
from vit.data.open import has_boxes, open_data
from vit.errors import UserError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

NAMED = {"names": ["cat", "dog"], "_type": "ClassLabel"}
NUMBER = {"dtype": "float32", "_type": "Value"}
FEATURES = {
    "version 2": {
        "feature": {"bbox": {"feature": NUMBER, "length": 4, "_type": "Sequence"}, "category": NAMED},
        "_type": "Sequence",
    },
    "version 4": {
        "bbox": {"feature": {"feature": NUMBER, "length": 4, "_type": "List"}, "_type": "List"},
        "category": {"feature": NAMED, "_type": "List"},
    },
    "a list": [{"bbox": [NUMBER], "category": NAMED}],
}
"""The last is a list of structs, the others are structs of lists."""


def png(size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, rows: list[dict[str, Any]], objects: Any = FEATURES["version 2"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "objects": objects}
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


def row(boxes: list[list[float]], labels: list[Any], seed: int = 0, **more: Any) -> dict[str, Any]:
    image = {"bytes": png(seed=seed), "path": f"{seed}.png"}
    return {"image": image, "objects": {"bbox": boxes, "category": labels}, **more}


@pytest.mark.parametrize("form", FEATURES)
def test_every_form_of_objects(tmp_path: Path, form: str):
    rows = [row([[1, 2, 8, 6], [0, 0, 40, 30]], [1, 0], 1), row([[3, 4, 2, 2]], [1], 2)]
    if form == "a list":
        for each in rows:
            things = zip(each["objects"]["bbox"], each["objects"]["category"], strict=True)
            each["objects"] = [{"bbox": box, "category": label} for box, label in things]
    write(tmp_path / "data/train-00000-of-00002.parquet", rows, FEATURES[form])
    write(tmp_path / "data/train-00001-of-00002.parquet", rows[1:], FEATURES[form])
    write(tmp_path / "data/validation-00000-of-00001.parquet", rows[1:], FEATURES[form])
    assert has_boxes(str(tmp_path))
    data = open_data(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.category_ids == (0, 1)
    assert [len(images) for images in data.splits().values()] == [3, 1]
    assert data.train.annotation(0).boxes.tolist() == [[1, 2, 9, 8], [0, 0, 40, 30]]
    assert data.train.annotation(0).labels.tolist() == [1, 0]
    assert data.train.annotation(2).boxes.tolist() == [[3, 4, 5, 6]]
    assert data.train.image(0).shape == (30, 40, 3) and data.train.sizes.tolist() == [[30, 40]] * 3
    some = data.train.select(np.array([2, 0]))
    assert some.annotation(1).labels.tolist() == [1, 0] and (some.image(1) == data.train.image(0)).all()


def test_names_in_the_rows_and_numbers_beyond_the_names(tmp_path: Path):
    """Row 6, and a file that does not name its classes."""
    write(tmp_path / "a.parquet", [row([[1, 2, 8, 6]], ["dog"]), row([[1, 2, 8, 6]], ["ant"])], objects=None)
    assert open_data(str(tmp_path / "a.parquet"), evaluation=True, kind="boxes").classes == ("ant", "dog")
    write(tmp_path / "b.parquet", [row([[1, 2, 8, 6]], [2])])
    with pytest.raises(
        UserError, match=r"no class: 1 of 1 \(.*b.parquet, row 0, object 1: category 2\). Allowed are 0..1"
    ):
        open_data(str(tmp_path / "b.parquet"), evaluation=True, kind="boxes")


def test_corners_sizes_and_numbers_of_images(tmp_path: Path):
    """Row 18, and boxes that can only be corners."""
    boxes = [[20.0, 10.0, 38.0, 28.0], [15.0, 2.0, 30.0, 9.0]]
    write(tmp_path / "a.parquet", [row(boxes, [0, 1], 0, image_id=77, width=40, height=30)])
    findings = Findings()
    test = open_data(str(tmp_path / "a.parquet"), evaluation=True, findings=findings, kind="boxes").test
    assert test.annotation(0).boxes.tolist() == boxes and test.image_id(0) == 77
    assert findings.ids() == {"box-corners"}
    write(tmp_path / "a.parquet", [row([[1, 1, 2, 2]], [0], 0, width=30, height=40)])
    with pytest.raises(UserError, match="row 0: the image is 40x30 pixels, its annotations say 30x40"):
        open_data(str(tmp_path / "a.parquet"), evaluation=True, kind="boxes")


def test_images_with_labels_are_left_to_the_other_reader(tmp_path: Path):
    rows = [{"image": {"bytes": png(seed=k), "path": None}, "label": k % 2} for k in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert not has_boxes(str(tmp_path)) and not has_boxes(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match="has no column objects with boxes"):
        open_data(str(tmp_path / "train.parquet"), kind="boxes")
