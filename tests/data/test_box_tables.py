"""Tables and manifests of boxes as other tools write them."""

import json
from pathlib import Path

import pytest

from tests.data.by_hand import write_image
from vit.data.check.findings import Findings
from vit.data.open import open_data
from vit.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, name in enumerate(("a.png", "b.png", "c.png")):
        write_image(tmp_path / name, (40, 30), k)
    return tmp_path


TABLES = {
    "ours.csv": "image,xmin,ymin,xmax,ymax,label,split\n"
    "a.png,1,2,9,8,cat,train\nb.png,,,,,,train\nc.png,3,4,5,6,cat,val\n",
    "tensorflow.csv": "filename,width,height,class,xmin,ymin,xmax,ymax,split\n"
    "a.png,40,30,cat,1,2,9,8,train\nc.png,40,30,cat,3,4,5,6,valid\n",
    "tabs.tsv": "Image_Path\tx1\ty1\tx2\ty2\tCategory\tsplit\n"
    "a.png\t1\t2\t9\t8\tcat\ttrain\nc.png\t3\t4\t5\t6\tcat\tval\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_of_other_tools(root: Path, name: str):
    (root / name).write_text(TABLES[name])
    data = open_data(str(root), kind="boxes")
    assert data.train.annotation(0).boxes.tolist() == [[1, 2, 9, 8]]
    assert data.val.annotation(0).boxes.tolist() == [[3, 4, 5, 6]]
    assert data.classes == ("cat",)
    assert len(data.train) == (2 if name == "ours.csv" else 1)


def test_a_table_without_a_header(root: Path):
    """As keras-retinanet has it."""
    (root / "annotations.csv").write_text("a.png,1,2,9,8,cat\na.png,2,2,9,8,dog\nb.png,,,,,\n")
    data = open_data(str(root), evaluation=True, kind="boxes")
    assert [data.test.annotation(i).labels.tolist() for i in range(2)] == [[0, 1], []]


def test_roboflow_has_a_table_in_each_split(root: Path):
    for split in ("train", "valid"):
        write_image(root / split / "x.png", (40, 30), len(split))
        (root / split / "_annotations.csv").write_text(
            "filename,width,height,class,xmin,ymin,xmax,ymax\nx.png,40,30,cat,1,2,9,8\n"
        )
    assert list(open_data(str(root), kind="boxes").splits()) == ["train", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,xmin,ymin,xmax,label\n", "line 1: the columns are image, xmin, ymin, xmax, label; needed are image"),
        ("", "line 1: the columns are none"),
        ("image,xmin,ymin,xmax,ymax,label\na.png,1,2,9,8\n", "line 2: 5 cells where the header has 6"),
        ("image,xmin,ymin,xmax,ymax,label\na.png,1,2,,8,cat\n", r"understood: 1 \(line 2: a.png,1,2,,8,cat\). A line"),
        ("image,xmin,ymin,xmax,ymax,label\na.png,1,2,9,8,\n", r"understood: 1 \(line 2"),
        ("image,xmin,ymin,xmax,ymax,label\n,1,2,9,8,cat\n", r"understood: 1 \(line 2"),
        ("image,xmin,ymin,xmax,ymax,label,split\na.png,1,2,9,8,cat,dev\n", "line 2: the split 'dev' is not one of"),
        ("image,xmin,ymin,xmax,ymax,label\nhttp://x/a.png,1,2,9,8,cat\n", "is a URL. Download"),
        ("image,xmin,ymin,xmax,ymax,label\n\xff\n", "cannot be read as a table in UTF-8"),
    ],
)
def test_tables_that_are_wrong(root: Path, text: str, message: str):
    (root / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        open_data(str(root / "t.csv"), evaluation=True, kind="boxes")


def test_several_tables(root: Path):
    for name in ("one.csv", "two.csv"):
        (root / name).write_text("image,xmin,ymin,xmax,ymax,label\na.png,1,2,9,8,cat\n")
    (root / "labels.csv").write_text("path,label\na.png,cat\n")
    with pytest.raises(UserError, match=r"several tables \(.*one.csv, .*two.csv\)"):
        open_data(str(root), kind="boxes")


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def test_lists_of_objects_and_numbers(root: Path):
    """The two forms of `objects`; a 0 is a label, too."""
    text = line(file_name="a.png", objects={"bbox": [[1, 2, 8, 6]], "categories": [0], "area": [30.5]})
    text += line(file_name="b.png", objects=[{"bbox": [3, 4, 2, 2], "category": 5}])
    text += line(file_name="c.png", objects=None)
    (root / "metadata.jsonl").write_text(text)
    data = open_data(str(root), evaluation=True, kind="boxes")
    assert [data.test.annotation(i).boxes.tolist() for i in range(3)] == [[[1, 2, 9, 8]], [[3, 4, 5, 6]], []]
    assert (data.classes, data.category_ids) == (("0", "5"), (0, 5))
    assert data.test.annotation(0).area.tolist() == [30.5]


def test_corners_are_found_out(root: Path):
    """As x, y, width, height most of these would leave their images; as corners none does."""
    boxes = [[20, 10, 38, 28], [15, 2, 30, 9], [1, 1, 5, 5]]
    (root / "metadata.jsonl").write_text(line(file_name="a.png", objects={"bbox": boxes, "category": [0, 0, 0]}))
    findings = Findings()
    data = open_data(str(root), evaluation=True, findings=findings, kind="boxes")
    assert data.test.annotation(0).boxes.tolist() == boxes
    assert [(f.id, f.severity) for f in findings] == [("box-corners", "note")]
    boxes[0] = [20, 10, 10, 5]  # a box that cannot be corners
    (root / "metadata.jsonl").write_text(line(file_name="a.png", objects={"bbox": boxes, "category": [0, 0, 0]}))
    findings = Findings()
    data = open_data(str(root), evaluation=True, findings=findings, kind="boxes")
    assert data.test.annotation(0).boxes.tolist()[0] == [20, 10, 30, 15]
    assert [f.id for f in findings] == ["box-beyond"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as lines of JSON"),
        ("[]\n", "line 1: is not an object"),
        (line(image="a.png", boxes=[[1, 2, 3]], labels=["cat"]), r"line 1, object 1: bbox \[1, 2, 3\]"),
        (line(image="a.png", boxes=[[1, 2, 3, 4]], labels=[None]), r"line 1, object 1: category "),
        (line(image="a.png", boxes=[[1, 2, 3, 4]], labels=[]), "lists in objects have different lengths"),
        (line(image="a.png", boxes=[[1, 2, 3, 4]]), "line 1: boxes and labels must be lists"),
        (line(image=["a.png"], boxes=[], labels=[]), "line 1: no image is named"),
        (line(file_name="a.png", objects=7), "line 1: objects is neither"),
        (line(image="a.png", boxes=[], labels=[], split="dev"), "line 1: the split 'dev'"),
    ],
)
def test_manifests_that_are_wrong(root: Path, text: str, message: str):
    (root / "m.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        open_data(str(root / "m.jsonl"), evaluation=True, kind="boxes")
