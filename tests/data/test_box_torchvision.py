"""torchvision's data sets with boxes: what its own classes give, read from folders as their archives unpack."""

from pathlib import Path

import pytest
import torch
from torchvision.datasets import Kitti, WIDERFace

from tests.data.by_hand import Picture, coco, voc, write_image
from vit.data.open import has_boxes, open_data, reopen
from vit.errors import UserError

BOXES = [(5, 6, 15, 14, "dog"), (0, 0, 40, 30, "cat", 1)]


def test_voc(tmp_path: Path):
    parts = {"train": [Picture("1.jpg", boxes=BOXES)], "val": [Picture("2.jpg", boxes=BOXES[:1])]}
    voc(tmp_path / "VOCdevkit/VOC2012", parts)
    voc(tmp_path / "VOCdevkit/VOC2007", {**parts, "test": [Picture("3.jpg")]})
    source = f"torchvision:VOCDetection@{tmp_path}"
    assert has_boxes(source) and not has_boxes("torchvision:CIFAR10")
    data = open_data(source, kind="boxes")
    assert list(data.splits()) == ["train", "val"] and data.classes == ("cat", "dog")
    assert data.train.annotation(0).boxes.tolist() == [[5, 6, 15, 14], [0, 0, 40, 30]]
    assert data.train.annotation(0).crowd.tolist() == [False, True]
    assert list(open_data(f"torchvision:VOCDetection/2007@{tmp_path}", kind="boxes").splits()) == [
        "train",
        "val",
        "test",
    ]
    assert not any("has changed" in note for note in reopen(data.record, kind="boxes").notes)


def test_coco(tmp_path: Path):
    coco(tmp_path, {"train": [Picture("a.png", boxes=BOXES)], "val": [Picture("b.png", boxes=BOXES)]})
    data = open_data(f"torchvision:CocoDetection@{tmp_path}", kind="boxes")
    assert data.category_ids == (1, 2, 3) and len(data.train) == 1
    with pytest.raises(UserError, match=r"no annotations in .*empty, and torchvision has no download"):
        open_data(f"torchvision:CocoDetection@{tmp_path}/empty", kind="boxes")


def test_kitti(tmp_path: Path):
    """The training images; its test images have no labels."""
    for k in range(4):
        write_image(tmp_path / f"Kitti/raw/training/image_2/{k:06}.png", (40, 30), k)
        file = tmp_path / f"Kitti/raw/training/label_2/{k:06}.txt"
        file.parent.mkdir(exist_ok=True)
        rest = "1 1 1 0 0 0 0"
        file.write_text(
            f"Car 0 0 0 {5 + k}.5 6 15 14 {rest}\nDontCare -1 -1 -10 1 1 9 9 {rest}\nVan 0 0 0 1 1 20 20 {rest}\n"
        )
    images = open_data(f"torchvision:Kitti@{tmp_path}", seed=None, evaluation=True, kind="boxes").test
    theirs = Kitti(str(tmp_path))
    by_name = {Path(path).name: theirs._parse_target(k) for k, path in enumerate(theirs.images)}
    assert images.classes == ("Car", "Van") and len(images) == 4
    for i in range(4):
        things = [thing for thing in by_name[Path(images.name(i)).name] if thing["type"] != "DontCare"]
        assert images.annotation(i).boxes.tolist() == [thing["bbox"] for thing in things]


# torchvision leaves the files of WIDERFace open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_faces(tmp_path: Path):
    for split in ("train", "val"):
        for k, name in enumerate(("a.jpg", "none.jpg")):
            write_image(tmp_path / f"widerface/WIDER_{split}/images/0--Parade/{name}", (40, 30), len(split) + 10 * k)
        lists = tmp_path / "widerface/wider_face_split"
        lists.mkdir(exist_ok=True)
        none = "0--Parade/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
        text = none + "0--Parade/a.jpg\n2\n5 6 10 8 0 0 0 0 2 0\n1 1 4 4 0 0 0 1 0 0\n"
        (lists / f"wider_face_{split}_bbx_gt.txt").write_text(text)
    (tmp_path / "widerface/WIDER_test").mkdir()
    data = open_data(f"torchvision:WIDERFace@{tmp_path}", kind="boxes")
    image, target = WIDERFace(str(tmp_path), split="train")[1]
    assert image.size == (40, 30) and torch.is_tensor(target["bbox"])
    assert data.train.targets.tolist() == [0, 2]
    truth = data.train.annotation(1)
    sides = target["bbox"].float()
    assert truth.boxes.tolist() == torch.cat([sides[:, :2], sides[:, :2] + sides[:, 2:]], dim=1).tolist()
    assert truth.crowd.tolist() == [False, True] and data.classes == ("face",)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:VOCDetection/1999@{}", "the variants of VOCDetection are 2012, 2011"),
        ("torchvision:Kitti/a@{}", "the variants of Kitti are none"),
        ("torchvision:CIFAR10", "of torchvision's data sets these have boxes: VOCDetection, CocoDetection, Kitti"),
    ],
)
def test_mistakes(tmp_path: Path, source: str, message: str):
    with pytest.raises(UserError, match=message):
        open_data(source.format(tmp_path), kind="boxes")
