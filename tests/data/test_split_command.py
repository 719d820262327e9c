"""split: every class in the same shares, equal files and groups together, the same from the same seed."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from tests.data.by_hand import Picture, coco, write_image
from vit.commands.data.split import divided, main
from vit.data.open import as_found, open_data
from vit.errors import UserError


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    for k, (name, count) in enumerate((("cat", 40), ("dog", 20), ("owl", 3))):
        for i in range(count):
            write_image(tmp_path / "set" / name / f"{i:02}.png", (8, 8), 100 * k + i)
    return tmp_path / "set"


def split(source: Path, out: Path, *options: object) -> dict[str, Any]:
    assert main([str(source), str(out), *map(str, options)]) == 0
    return as_found(str(out))[1]


def names(images: Any) -> list[str]:
    return [images.name(i).split("/")[-2] + "/" + Path(images.name(i)).name for i in range(len(images))]


def test_every_class_in_the_same_shares(labels: Path, tmp_path: Path):
    """As scikit-learn's stratified split does, to one image of a class."""
    parts = split(labels, tmp_path / "out", "--val", 0.2, "--test", 0.1)
    counts = {name: images.counts().tolist() for name, images in parts.items()}
    assert counts == {"train": [28, 14, 1], "val": [8, 4, 1], "test": [4, 2, 1]}
    targets = np.repeat([0, 1, 2], [40, 20, 3])
    rest, _ = train_test_split(targets, test_size=0.1, stratify=targets, random_state=0)
    theirs, _ = train_test_split(rest, test_size=0.2 / 0.9, stratify=rest, random_state=0)
    assert np.abs(np.bincount(theirs) - counts["train"]).max() <= 1
    everything = [name for images in parts.values() for name in names(images)]
    assert sorted(everything) == sorted(names(as_found(str(labels))[1]["train"]))


def test_the_seed_decides_and_adding_images_moves_few(labels: Path, tmp_path: Path):
    first, again, other = (split(labels, tmp_path / f"{k}", "--seed", seed) for k, seed in enumerate((1, 1, 2)))
    assert {k: names(v) for k, v in first.items()} == {k: names(v) for k, v in again.items()}
    assert names(first["val"]) != names(other["val"])
    write_image(labels / "cat/new.png", (8, 8), 999)
    more = split(labels, tmp_path / "more", "--seed", 1)
    assert len(set(names(first["train"])) - set(names(more["train"]))) <= 2


def test_the_users_files_stay_and_links_are_links(labels: Path, tmp_path: Path):
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in labels.rglob("*.png")}
    parts = split(labels, tmp_path / "out", "--images", "symlink")
    assert all(Path(images.name(0)).is_symlink() for images in parts.values())
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in labels.rglob("*.png")} == before


def test_equal_files_stay_together(labels: Path, tmp_path: Path):
    """Otherwise the score would reward memory."""
    for k in range(20):
        shutil.copy(labels / f"cat/{k:02}.png", labels / f"cat/copy {k}.png")
    parts = split(labels, tmp_path / "out", "--val", 0.3, "--test", 0.2)
    seen: dict[bytes, set[str]] = {}
    for name, images in parts.items():
        for i in range(len(images)):
            seen.setdefault(images.file(i)[1], set()).add(name)
    assert all(len(where) == 1 for where in seen.values())


def test_groups_stay_together(tmp_path: Path):
    for video in range(10):
        for frame in range(6):
            write_image(tmp_path / f"set/{'ab'[video % 2]}/video{video}_{frame:03}.png", (8, 8), 10 * video + frame)
    parts = split(tmp_path / "set", tmp_path / "out", "--group", r"(video\d+)_", "--val", 0.2, "--test", 0.2)
    videos = [(part, Path(name).name.split("_")[0]) for part, images in parts.items() for name in names(images)]
    assert Counter(Counter(videos).values()) == {6: 10}, "all six frames of each are in one part"
    assert {part for part, _ in videos} == {"train", "val", "test"}
    for pattern, message in (("(", "not a regular expression"), ("x", "finds 0 groups"), ("video", "finds 1 groups")):
        with pytest.raises(UserError, match=message):
            main([str(tmp_path / "set"), str(tmp_path / "other"), "--group", pattern])


def test_boxes_are_divided_by_their_rarest_class(tmp_path: Path):
    both = [(1, 1, 9, 9, "cat"), (2, 2, 8, 8, "dog")]
    pictures = [Picture(f"{k}.png", (16, 12), both if k % 5 == 0 else both[:1] if k % 5 < 4 else []) for k in range(50)]
    coco(tmp_path / "set", {"train": pictures}, ("cat", "dog"))
    parts = split(tmp_path / "set", tmp_path / "out", "--val", 0.2, "--test", 0.1, "--to", "yolo")
    assert {name: images.counts().tolist() for name, images in parts.items()} == {
        "train": [28, 7], "val": [8, 2], "test": [4, 1],
    }  # fmt: skip
    assert {name: int((images.targets == 0).sum()) for name, images in parts.items()} == {
        "train": 7,
        "val": 2,
        "test": 1,
    }
    split(tmp_path / "set", tmp_path / "same")
    assert open_data(str(tmp_path / "same"), kind="boxes").record["format"] == "coco"


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--val", "0.6", "--test", "0.5"], "together below 1"), (["--val", "0", "--test", "0"], "together below 1")],
)
def test_shares_that_are_none(labels: Path, tmp_path: Path, options: list[str], message: str):
    with pytest.raises(UserError, match=message):
        main([str(labels), str(tmp_path / "out"), *options])


def test_what_is_divided_already(photos: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"is divided already: train \(36 images\), val"):
        main([str(photos), str(tmp_path / "out")])


def test_no_val_or_no_test(labels: Path, tmp_path: Path):
    assert list(split(labels, tmp_path / "a", "--test", 0)) == ["train", "val"]
    images = as_found(str(labels))[1]["train"]
    rows = divided(images, 0.0, 0.25, 0)
    assert len(rows["val"]) == 0 and len(rows["test"]) == 16
    assert sorted(np.concatenate([*rows.values()]).tolist()) == list(range(63))
