"""`vitral data pack`: shards hold what the source holds, for labels and for boxes; and what can go wrong."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.tars import picture, write
from vit.__main__ import command
from vit.commands.data.pack import Pack, main, pack
from vit.data.open import open_data
from vit.data.store.shard_writer import ShardWriter, key_of
from vit.errors import UserError


def source_of(name):
    """photos-cat-3.png of 00000012_photos-cat-3.png: what the file was called."""
    return re.sub(r"^\d{8}_", "", os.path.basename(name).rpartition(".")[0])


def slug(key):
    return source_of(key_of(0, os.fsdecode(key)) + ".x")


def test_class_folders(photos, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main([str(photos), str(out), "--shard-mb", "1"]) == 0
    whole, packed = open_data(str(photos)), open_data(str(out))
    assert packed.classes == whole.classes
    for split, images in whole.splits().items():
        theirs = packed.splits()[split]
        assert len(theirs) == len(images)
        place = {slug(images.key(i)): i for i in range(len(images))}
        assert len(place) == len(images)
        seen = set()
        for i in range(len(theirs)):
            j = place[source_of(theirs.name(i).rpartition(", ")[2])]
            assert theirs.targets[i] == images.targets[j]
            assert theirs.file(i) == images.file(j)  # the bytes of the file, not decoded and encoded again
            seen.add(j)
        assert len(seen) == len(images)
        # Mixed, so that one who streams them does not see class after class.
        assert theirs.targets.tolist() != sorted(theirs.targets.tolist())
    told = capsys.readouterr().out
    assert "train: 36 images in 1 shards" in told and f"vitral train folder --data {out}" in told
    facts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert facts["splits"]["train"] == {"images": 36, "shards": 1} and facts["task"] == "classification"


def test_every_other_program_can_read_them(photos, tmp_path):
    pack(Pack(str(photos), str(tmp_path / "out")))
    with tarfile.open(tmp_path / "out" / "val-000000.tar") as archive:
        names = archive.getnames()
        assert all(member.isreg() and member.mtime == 0 for member in archive.getmembers())
        assert archive.extractfile(names[1]).read() in (b"0", b"1", b"2")
    assert [name.partition(".")[2] for name in names[:4]] == ["png", "cls", "png", "cls"]
    keys = [name.partition(".")[0] for name in names]
    assert keys[::2] == keys[1::2] == sorted(keys[::2])


def test_the_same_source_gives_the_same_bytes(photos, tmp_path):
    for name in ("a", "b"):
        pack(Pack(str(photos), str(tmp_path / name)))
    for file in ("train-000000.tar", "val-000000.tar", "dataset.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    # Shards of shards hold the same samples, under new numbers.
    pack(Pack(str(tmp_path / "a"), str(tmp_path / "c")))
    one, other = open_data(str(tmp_path / "a")), open_data(str(tmp_path / "c"))
    assert one.classes == other.classes and one.train.counts().tolist() == other.train.counts().tolist()
    assert sorted(one.train.file(i)[1] for i in range(36)) == sorted(other.train.file(i)[1] for i in range(36))


def test_several_labels(tmp_path, write_images):
    write_images(tmp_path, {"images": 6})
    rows = ["sea;sky", "", "sky", "sea", "tree;sea", "sky"]
    lines = [f"images/{i}.png,{row},{'train' if i < 4 else 'val'}" for i, row in enumerate(rows)]
    (tmp_path / "list.csv").write_text("\n".join(["path,labels,split", *lines]).replace("tree", "sky") + "\n")
    pack(Pack(str(tmp_path / "list.csv"), str(tmp_path / "out")))
    one, other = open_data(str(tmp_path / "list.csv")), open_data(str(tmp_path / "out"))
    assert other.multilabel and other.classes == one.classes
    for split in ("train", "val"):
        a, b = one.splits()[split], other.splits()[split]
        theirs = {b.file(i)[1]: b.targets[i].tolist() for i in range(len(b))}
        assert theirs == {a.file(i)[1]: a.targets[i].tolist() for i in range(len(a))}


def test_images_in_memory_become_pngs(tmp_path, monkeypatch):
    digits = open_data("digits")
    one_of_each = {name: np.unique(images.targets, return_index=True)[1] for name, images in digits.splits().items()}
    few = {name: images.select(one_of_each[name]) for name, images in digits.splits().items()}
    monkeypatch.setattr(type(digits), "splits", lambda self: few)
    pack(Pack("digits", str(tmp_path / "out")))
    monkeypatch.undo()
    test = open_data(str(tmp_path / "out")).test
    here = {few["test"].image(i).tobytes(): few["test"].targets[i] for i in range(10)}
    assert {test.image(i).tobytes(): test.targets[i] for i in range(10)} == here


def test_boxes_come_back_as_they_were(shapes, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main([str(shapes), str(out)]) == 0
    one, other = open_data(str(shapes), kind="boxes"), open_data(str(out), kind="boxes")
    assert other.classes == one.classes and other.category_ids == one.category_ids
    for split, images in one.splits().items():
        theirs = other.splits()[split]
        place = {theirs.image_id(i): i for i in range(len(theirs))}
        assert len(place) == len(theirs) == len(images)
        for i in range(len(images)):
            j = place[images.image_id(i)]
            for a, b in zip(images.annotation(i), theirs.annotation(j), strict=True):
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype
            np.testing.assert_array_equal(images.image(i), theirs.image(j))
        np.testing.assert_array_equal(images.counts(), theirs.counts())
    told = capsys.readouterr().out
    assert f"vitral train detect --data {out}" in told and "the report" not in told
    with tarfile.open(out / "val-000000.tar") as archive:
        sample = json.loads(archive.extractfile(archive.getnames()[1]).read())
    assert set(sample) == {"width", "height", "image_id", "boxes", "labels", "crowd", "area"}
    with pytest.raises(UserError, match=r"its samples have boxes: vitral train detect"):
        open_data(str(out), kind="labels")


def test_a_shard_is_no_larger_than_asked_for(tmp_path):
    limit = 50_000
    with ShardWriter(str(tmp_path), "train", limit) as writer:
        for i in range(40):
            writer.add(f"{i:04d}", {".jpg": bytes(3000 + i), ".cls": b"1"})
        writer.add("large", {".jpg": bytes(80_000)})
    sizes = [os.path.getsize(tmp_path / file) for file in writer.files]
    assert writer.files == [f"train-{k:06d}.tar" for k in range(len(sizes))]
    assert max(sizes[:-1]) <= limit < sizes[-1] and min(sizes[:-2]) > 0.8 * limit
    assert sorted(os.listdir(tmp_path)) == writer.files


def test_row_35_a_full_disk_leaves_no_half_a_shard(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    told = pytest.raises(UserError, match=r"there is no space left\. Free some")
    with told, ShardWriter(str(tmp_path), "train", 10**6) as writer:
        writer.add("1", {".jpg": b"x"})
        monkeypatch.setattr(tarfile.TarFile, "addfile", full)
        writer.add("2", {".jpg": b"x"})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cat/1.jpg", "00000007_cat_1"),
        ("größe 図/a.b.c.PNG", "00000007_gr_e_a_b_c"),
        ("../../etc/x.jpg", "00000007_etc_x"),
        ("x" * 200 + ".jpg", "00000007_" + "x" * 60),
        ("...", "00000007"),
    ],
)
def test_keys(name, key):
    assert key_of(7, name) == key


def test_images_that_cannot_be_read_are_left_out_and_told(tmp_path, write_images, capsys):
    write_images(tmp_path / "photos", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    gone = tmp_path / "photos/train/a/1.png"
    data = open_data(str(tmp_path / "photos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit.commands.data.pack.open_data", lambda *_, **__: (gone.unlink(), data)[1])
        assert pack(Pack(str(tmp_path / "photos"), str(tmp_path / "out"), task="classification")) == 1
    told = capsys.readouterr().out
    assert f"Warning: 1 images could not be read and were left out: {gone}: cannot be read" in told
    assert len(open_data(str(tmp_path / "out")).train) == 7


def test_mistakes(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="full is not empty"):
        pack(Pack(str(photos), str(tmp_path / "full")))
    with pytest.raises(UserError, match="--shard-mb must be at least 1"):
        pack(Pack(str(photos), str(tmp_path / "out"), shard_mb=0))
    with pytest.raises(UserError, match="no such data"):
        pack(Pack(str(tmp_path / "photo"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(UserError, match=r"out\.partial is left over from a run that did not end"):
        pack(Pack(str(photos), str(tmp_path / "out")))
    with pytest.raises(UserError, match=r"has no command 'pakc'\. Did you mean .pack"):
        command(["data", "pakc"])


def test_the_command_exits_with_2_after_a_mistake(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "vit", "data", "pack", str(tmp_path / "nothing"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and "no such data" in done.stderr


# What may be wrong with shards with boxes


def boxes(tmp_path, *samples, classes=("cat", "dog")):
    members = []
    for i, sample in enumerate(samples):
        text = sample if isinstance(sample, bytes) else json.dumps({"width": 6, "height": 4, **sample}).encode()
        members += [(f"{i}.png", picture(i)), (f"{i}.json", text)]
    write(tmp_path / "all.tar", members)
    if classes:
        (tmp_path / "dataset.json").write_text(json.dumps({"classes": classes}))
    return str(tmp_path)


def test_boxes_that_are_wrong_are_left_out_or_cut_and_told(tmp_path):
    nan = float("nan")
    source = boxes(
        tmp_path,
        {"boxes": [[0, 0, 3, 2], [nan, 0, 1, 1], [2, 2, 2, 3]], "labels": ["cat", "cat", "dog"]},
        {"boxes": [[-5, -5, 50, 2]], "labels": ["dog"], "area": [7], "crowd": [True]},
        {"boxes": [], "labels": []},
    )
    data = open_data(source, evaluation=True, kind="boxes")
    assert [data.test.annotation(i).boxes.tolist() for i in range(3)] == [[[0, 0, 3, 2]], [[0, 0, 6, 2]], []]
    assert data.test.annotation(0).area.tolist() == [6] and data.test.annotation(1).crowd.tolist() == [True]
    told = "\n".join(data.notes)
    for words in ("NaN", "side of 0 or less", "beyond their image", "without boxes"):
        assert words in told
    assert data.test.image(0).shape == (4, 6, 3) and data.category_ids == (0, 1)


def test_sizes_that_are_not_told_are_read(tmp_path):
    source = boxes(tmp_path, {"boxes": [[0, 0, 9, 9]], "labels": ["cat"], "width": None, "height": None})
    assert open_data(source, evaluation=True, kind="boxes").test.annotation(0).boxes.tolist() == [[0, 0, 6, 4]]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"boxes": [[0, 0, 1]], "labels": ["cat"]}, r"0\.png, object 1: bbox \[0, 0, 1\]"),
        ({"boxes": [[0, 0, 1, 1]], "labels": []}, r"0\.png: the lists in objects have different lengths \(0, 1\)"),
        ({"boxes": [[0, 0, 1, "x"]], "labels": ["cat"]}, r"object 1: bbox \[0, 0, 1, 'x'\]"),
        ({"boxes": {"a": 1}, "labels": []}, "boxes and labels must be lists"),
        ({"boxes": [[0, 0, 1, 1]], "labels": ["cow"]}, r"0\.png, object 1: cow\). Allowed are 0\.\.1: cat, dog"),
    ],
)
def test_a_json_of_another_form(tmp_path, sample, message):
    with pytest.raises(UserError, match=message):
        open_data(boxes(tmp_path, sample), evaluation=True, kind="boxes")
