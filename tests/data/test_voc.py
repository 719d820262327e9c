"""Pascal VOC: torchvision's reader, the folders that exist, and XML of strangers."""

from pathlib import Path

import pytest
from torchvision.datasets import VOCDetection

from tests.data.by_hand import Picture, voc, voc_xml, write_image, write_images
from vit.data.boxes.annotations.xml_tree import read_xml
from vit.data.check.findings import Findings
from vit.data.open import open_data
from vit.errors import UserError

PICTURES = [
    Picture("2008_000001.jpg", (40, 30), [(5, 6, 15, 14, "dog"), (0, 0, 40, 30, "cat", 1)]),
    Picture("2008_000002.jpg", (50, 32), [(1, 2, 30, 31, "person & co")]),
]


def test_images_and_boxes_are_those_of_torchvision(tmp_path: Path):
    """torchvision gives the numbers of the file; a box of ours begins a pixel before its first one."""
    root = tmp_path / "VOCdevkit/VOC2012"
    voc(root, {"train": PICTURES, "val": [Picture("x.jpg")]})
    data = open_data(str(tmp_path), kind="boxes")
    theirs = VOCDetection(str(tmp_path), year="2012", image_set="train")
    assert len(theirs) == len(data.train) == 2
    for i, (image, target) in enumerate(theirs):
        truth = data.train.annotation(i)
        assert data.train.name(i) == theirs.images[i]
        assert (image.height, image.width) == data.train.image(i).shape[:2]
        things = target["annotation"]["object"]
        assert [data.classes[k] for k in truth.labels] == [thing["name"] for thing in things]
        assert truth.crowd.tolist() == [thing["difficult"] == "1" for thing in things]
        for box, thing in zip(truth.boxes.tolist(), things, strict=True):
            corners = [int(thing["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [corners[0] - 1, corners[1] - 1, *corners[2:]]


def test_a_box_of_one_pixel_covers_it(tmp_path: Path):
    """VOC's box 3..3 is the third pixel: from 2 to 3."""
    voc(tmp_path / "x", {"test": [Picture("a.png", boxes=[(2, 2, 3, 3, "dot")])]})
    text = (tmp_path / "x/Annotations/a.xml").read_text()
    assert "<xmin>3</xmin>" in text and "<xmax>3</xmax>" in text
    assert open_data(str(tmp_path / "x"), evaluation=True, kind="boxes").test.annotation(0).boxes.tolist() == [
        [2, 2, 3, 3]
    ]


@pytest.mark.parametrize("layout", ["beside", "splits", "kaggle", "roboflow"])
def test_folders(tmp_path: Path, layout: str):
    """XML beside the images, or in a folder annotations/ beside images/; for the whole set or for each split."""
    parts = {"train": PICTURES, "valid": [Picture("v.png")]} if layout in ("splits", "roboflow") else {"": PICTURES}
    for split, pictures in parts.items():
        folders = {"kaggle": ("annotations", "images"), "splits": ("Annotations", "JPEGImages")}
        annotations, images = folders.get(layout, ("", ""))
        write_images(tmp_path / split / images, pictures)
        (tmp_path / split / annotations).mkdir(exist_ok=True)
        for picture in pictures:
            (tmp_path / split / annotations / f"{picture.stem}.xml").write_text(voc_xml(picture))
    data = open_data(str(tmp_path), evaluation=True, kind="boxes")
    splits = {name: [Path(images.name(i)).name for i in range(len(images))] for name, images in data.splits().items()}
    names = [picture.name for picture in PICTURES]
    assert splits == ({"train": names, "val": ["v.png"]} if len(parts) == 2 else {"test": names})
    assert data.classes == ("cat", "dog", "person & co")


def test_trainval_and_several_years(tmp_path: Path):
    pictures = [Picture(f"{i}.png", boxes=[(1, 1, 9, 9, "dog")]) for i in range(10)]
    voc(tmp_path / "VOC2007", {"trainval": pictures, "test": [Picture("t.png")]})
    data = open_data(str(tmp_path), kind="boxes")
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 8, "val": 2, "test": 1}
    voc(tmp_path / "VOC2012", {"train": PICTURES})
    with pytest.raises(UserError, match=r"several sets of VOC. Give one of them: .*VOC2007 or .*VOC2012"):
        open_data(str(tmp_path), kind="boxes")


def test_files_without_a_partner(tmp_path: Path):
    """Rows 10 and 17: an XML file without an image, an image without one, and one without objects."""
    write_images(tmp_path, [*PICTURES, Picture("alone.png"), Picture("bare.PNG")])
    for picture in (*PICTURES, Picture("bare.PNG"), Picture("gone.png", boxes=[(1, 1, 9, 9, "dog")])):
        (tmp_path / f"{picture.stem}.xml").write_text(voc_xml(picture))
    findings = Findings()
    data = open_data(str(tmp_path), findings=findings, evaluation=True, kind="boxes")
    assert [len(data.test.annotation(i).labels) for i in range(3)] == [2, 1, 0]
    assert {f.id: f.names for f in findings} == {"annotation-unlisted": ["gone.xml"], "image-unlisted": ["alone.png"]}


def test_the_name_of_the_image_inside_the_file(tmp_path: Path):
    """labelImg writes a whole path; another image's name is told, and the one of the file's own name taken."""
    write_images(tmp_path, [Picture("a.png"), Picture("b.png"), Picture("real.png")])
    text = voc_xml(Picture("a.png", boxes=[(1, 1, 9, 9, "dog")]))
    (tmp_path / "a.xml").write_text(text.replace("a.png", "C:\\Users\\me\\a.png"))
    (tmp_path / "b.xml").write_text(text)
    (tmp_path / "0001.xml").write_text(text.replace("a.png", "real.png"))
    findings = Findings()
    data = open_data(str(tmp_path), findings=findings, evaluation=True, kind="boxes")
    assert [Path(data.test.name(i)).name for i in range(3)] == ["real.png", "a.png", "b.png"]
    assert [(f.id, f.names) for f in findings] == [("voc-filename", ["b.xml: a.png"])]


def test_boxes_counted_from_zero_are_told(tmp_path: Path):
    findings = Findings()
    voc(
        tmp_path / "x",
        {"train": [Picture("a.png", boxes=[(-1, 4, 9, 9, "dog")]), Picture("b.png", boxes=[(1, 1, 9, 9, "dog")])]},
    )
    data = open_data(str(tmp_path / "x"), findings=findings, evaluation=True, kind="boxes")
    assert [f.id for f in findings] == ["voc-from-zero"]
    assert data.train.annotation(0).boxes.tolist() == [[0, 4, 9, 9]]


def test_parts_have_boxes_too(tmp_path: Path):
    """A person's head is a part within the object, and sizes of 0 are no sizes."""
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    text = voc_xml(Picture("a.png", boxes=[(1, 1, 9, 9, "dog")], told=(0, 0)))
    write_image(tmp_path / "a.png", (40, 30))
    (tmp_path / "a.xml").write_text(text.replace("<difficult>0</difficult>", part))
    data = open_data(str(tmp_path), evaluation=True, kind="boxes")
    assert data.test.annotation(0).boxes.tolist() == [[1, 1, 9, 9]]
    assert data.test.sizes.tolist() == [[30, 40]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>2</xmin>", "", "object 1: has no bndbox/xmin"),
        ("<xmin>2</xmin>", "<xmin>left</xmin>", "object 1: bndbox/xmin is 'left', not a number"),
        ("<name>dog</name>", "<name> </name>", "object 1: has no name"),
        ("</annotation>", "", r"a.xml: is no XML \(no element found"),
        ("<annotation>", '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>', "defines entities"),
        ("<annotation>", '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>', "defines entities"),
        ("<annotation>", '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://localhost/x">%p;]><annotation>', "defines entities"),
        ("dog", "&undefined;", r"is no XML \(undefined entity"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, old: str, new: str, message: str):
    write_images(tmp_path, [Picture("a.png"), Picture("b.png")])
    text = voc_xml(Picture("a.png", boxes=[(1, 1, 9, 9, "dog")]))
    (tmp_path / "a.xml").write_text(text.replace(old, new))
    (tmp_path / "b.xml").write_text(text.replace("a.png", "b.png"))
    with pytest.raises(UserError, match=message):
        open_data(str(tmp_path), evaluation=True, kind="boxes")
    findings = Findings()
    assert len(open_data(str(tmp_path), evaluation=True, findings=findings, kind="boxes").test) >= 1
    assert findings.ids() == {"annotation-malformed"}


def test_xml_is_read_as_it_is_written(tmp_path: Path):
    """A plain DOCTYPE harms nobody, and the five entities of XML itself are text."""
    file = tmp_path / "a.xml"
    file.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE a><a><b>x &amp; y é</b></a>', encoding="latin-1"
    )
    assert read_xml(str(file)).findtext("b") == "x & y é"
    file.write_bytes(b"<a>" + b" " * (11 * 2**20) + b"</a>")
    with pytest.raises(UserError, match="more than 10 MB"):
        read_xml(str(file))
