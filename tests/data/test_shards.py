"""Tar shards against Python's tarfile; FAULTS rows 6, 21, 32, 41, 50, 56."""

import io
import json
import os
import pickle
import random
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.loading import training
from tests.data.tars import picture, samples, write
from vit.data import AUGMENTS, Pipeline, open_data
from vit.data.labels.shards import braces
from vit.data.store.shard_index import INDEX
from vit.data.store.tar_scan import scan
from vit.errors import UserError
from vit.images.preprocess import Preprocess


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train-000000.tar", samples([0, 1, 2, 1]))
    write(tmp_path / "train-000001.tar", samples([2, 0, 0], first=4))
    write(tmp_path / "val-000000.tar", samples([1, 0, 2], first=10))
    (tmp_path / "classes.txt").write_text("cat\ndog\nhen\n")
    return tmp_path


def test_images_labels_and_splits(folder):
    data = open_data(str(folder))
    assert data.classes == ("cat", "dog", "hen")
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 7, "val": 3}
    assert data.train.targets.tolist() == [0, 1, 2, 1, 2, 0, 0]
    for i in (6, 0, 4, 3):
        assert data.train.file(i) == (".png", picture(i))
        np.testing.assert_array_equal(data.train.image(i), np.asarray(Image.open(io.BytesIO(picture(i)))))
    assert data.train.name(4) == f"{folder / 'train-000001.tar'}, 000004.png"
    assert data.train.key(4) == b"train-000001.tar:000004.png"


def messy(seed):
    """Members with long, nested, Unicode and multi-dot names, in any order, of any size."""
    rng = random.Random(seed)
    members = []
    for i in range(60):
        depth = "/".join(rng.choice(["a", "größe 图", "x" * 60, "v1.2"]) for _ in range(rng.randrange(4)))
        base = f"{depth}/{i}" if depth else str(i)
        if rng.random() < 0.2:
            base = f"{base}-{'n' * rng.choice([90, 150])}"
        members.append((f"{base}.jpg", rng.randbytes(rng.choice([1, 511, 512, 513, 3000]))))
        members.append((f"{base}.cls", str(rng.randrange(5)).encode()))
        members.append((f"{base}.mask.png", b"mask"))
        members.append((f"{base}.txt", b"a caption"))
    rng.shuffle(members)
    return members


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("seed", range(3))
def test_every_member_is_where_tarfile_says(tmp_path, form, seed):
    members = messy(seed)
    path = write(tmp_path / "all.tar", members, form)
    with tarfile.open(path) as archive:
        theirs = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
    content = path.read_bytes()
    assert [(m.name, content[m.offset : m.offset + m.size]) for m in scan(str(path))] == theirs == members
    # A sample is what WebDataset takes for one: names alike up to the first dot after the last slash.
    data = open_data(str(path), evaluation=True).test
    wanted = dict(members)
    assert len(data) == 60
    for i in range(60):
        ending, found = data.file(i)
        name = data.name(i).removeprefix(f"{path}, ")
        assert (ending, found) == (".jpg", wanted[name])
        assert data.classes[data.targets[i]] == wanted[name.removesuffix("jpg") + "cls"].decode()


def test_labels_in_json(tmp_path):
    rows = [{"label": 1}, {"label": 0, "caption": "x"}, {"label": "dog"}, {"label": "cat"}]
    members = [
        m for i, row in enumerate(rows) for m in ((f"{i}.png", picture(i)), (f"{i}.json", json.dumps(row).encode()))
    ]
    write(tmp_path / "train.tar", members)
    write(tmp_path / "val.tar", members)
    (tmp_path / "dataset.json").write_text('{"classes": ["cat", "dog"]}')
    assert open_data(str(tmp_path)).train.targets.tolist() == [1, 0, 1, 0]
    (tmp_path / "dataset.json").write_text('{"classes": "cat"}')
    with pytest.raises(UserError, match=r"dataset\.json: is not of the form"):
        open_data(str(tmp_path))


def test_lists_of_labels(tmp_path):
    rows = [["sea", "sky"], [], ["sky"], ["sea"]]
    members = [
        m
        for i, row in enumerate(rows)
        for m in ((f"{i}.png", picture(i)), (f"{i}.json", json.dumps({"labels": row}).encode()))
    ]
    write(tmp_path / "all.tar", members)
    test = open_data(str(tmp_path / "all.tar"), evaluation=True).test
    assert test.multilabel and test.targets.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]


def test_names_in_cls(tmp_path):
    path = write(tmp_path / "all.tar", samples(["hen", "cat", "hen"]))
    test = open_data(str(path), evaluation=True).test
    assert test.classes == ("cat", "hen") and test.targets.tolist() == [1, 0, 1]


def test_patterns(folder):
    assert braces("s-{008..010}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    data = open_data(f"{folder}/train-{{000000..000001}}.tar")
    assert len(data.train) + len(data.val) == 7
    assert data.record["source"] == f"{folder}/train-{{000000..000001}}.tar"
    assert len(open_data(f"{folder}/*-000000.tar").train) == 4
    with pytest.raises(UserError, match=r"2 of 4 shards do not exist: .*train-000002\.tar, .*train-000003\.tar"):
        open_data(f"{folder}/train-{{000000..000003}}.tar")
    with pytest.raises(UserError, match="is no range"):
        open_data(f"{folder}/train-{{9..1}}.tar")


def test_folders_of_splits(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "0000.tar", samples([0, 1, 0, 1]))
    assert {n: len(s) for n, s in open_data(str(tmp_path)).splits().items()} == {"train": 4, "val": 4}
    assert (tmp_path / "train" / INDEX).is_file() and (tmp_path / "val" / INDEX).is_file()


# The index


@pytest.fixture
def scanned(monkeypatch):
    """The shards that were read through."""
    seen = []

    def counting(path):
        seen.append(os.path.basename(path))
        return scan(path)

    monkeypatch.setattr("vit.data.store.shard_index.scan", counting)
    return seen


def test_the_index_is_made_once_and_anew_for_what_changed(folder, scanned):
    first = open_data(str(folder))
    assert sorted(scanned) == ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    scanned.clear()
    again = open_data(str(folder))
    assert scanned == []
    assert again.train.fingerprint() == first.train.fingerprint() and again.train.stamp() == first.train.stamp()
    write(folder / "train-000001.tar", samples([1, 1], first=20))
    changed = open_data(str(folder))
    assert scanned == ["train-000001.tar"]
    assert changed.train.targets.tolist() == [0, 1, 2, 1, 1, 1]
    assert changed.train.stamp() != first.train.stamp()
    scanned.clear()
    # The same size at another time
    os.utime(folder / "val-000000.tar", ns=(1, 1))
    open_data(str(folder))
    assert scanned == ["val-000000.tar"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"\x80\x04."])
def test_a_damaged_index_is_made_anew(folder, scanned, content):
    wanted = open_data(str(folder)).train.targets.tolist()
    (folder / INDEX).write_bytes(content)
    scanned.clear()
    assert open_data(str(folder)).train.targets.tolist() == wanted and len(scanned) == 3


def test_an_index_that_points_out_of_its_shard_is_not_believed(folder, scanned):
    open_data(str(folder))
    with np.load(folder / INDEX) as arrays:
        content = {name: arrays[name].copy() for name in arrays.files}
    content["offset"][0] = 10**9
    np.savez(folder / INDEX, **content)
    scanned.clear()
    assert open_data(str(folder)).train.image(0).shape == (4, 6, 3)
    assert scanned == ["train-000000.tar"]


def test_where_shards_cannot_be_written_beside_the_index_goes_into_the_cache(
    folder, scanned, monkeypatch, tmp_path_factory
):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VITRAL_CACHE", str(cache))
    real = os.replace

    def read_only(source, target):
        if str(target).startswith(str(folder)):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr("vit.data.store.shard_index.os.replace", read_only)
    open_data(str(folder))
    assert sorted(os.listdir(folder)) == ["classes.txt", "train-000000.tar", "train-000001.tar", "val-000000.tar"]
    assert len(list((cache / "indexes").iterdir())) == 1
    scanned.clear()
    assert len(open_data(str(folder)).train) == 7 and scanned == []


# Order, processes


def batches(images, **options):
    size = Preprocess((8, 8))
    loader = training(images, Pipeline(AUGMENTS["none"], size), batch_size=3, epochs=2, seed=5, **options)
    return [(batch.index.tolist(), batch.images) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_batches_that_single_files_give(folder, tmp_path_factory, workers):
    files = tmp_path_factory.mktemp("files")
    labels = ["cat", "dog", "hen", "dog", "hen", "cat", "cat"]
    for i, label in enumerate(labels):
        (files / "train" / label).mkdir(parents=True, exist_ok=True)
        (files / "train" / label / f"{i}.png").write_bytes(picture(i))
    rows = "".join(f"train/{label}/{i}.png,{label}\n" for i, label in enumerate(labels))
    (files / "list.csv").write_text("path,label\n" + rows)
    single = open_data(str(files / "list.csv"), evaluation=True).test
    shards = open_data(str(folder)).train
    for (a, x), (b, y) in zip(batches(single), batches(shards, workers=workers), strict=True):
        assert a == b
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_row_41_ranks_and_resuming(folder):
    shards = open_data(str(folder)).train
    whole = batches(shards)
    assert [index for index, _ in batches(shards, start_step=2)] == [index for index, _ in whole[2:]]
    ranks = [batches(shards, rank=rank, world=3) for rank in range(3)]
    assert [[rank[step][0][0] for rank in ranks] for step in range(len(whole))] == [index for index, _ in whole]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_and_one_that_is_sent_the_set_read_the_same(folder):
    images = open_data(str(folder)).train
    here = [images.image(i).tolist() for i in range(7)]  # files are open before the fork
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, pickle.dumps([images.image(i).tolist() == here[i] for i in reversed(range(7))]))
        os._exit(0)
    assert pickle.loads(os.read(reader, 10_000)) == [True] * 7
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    sent = pickle.dumps(images)
    assert len(sent) < 10_000
    assert [pickle.loads(sent).image(i).tolist() for i in range(7)] == here


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("vit.data.labels.shards.OPEN_FILES", 3)
    for k in range(9):
        write(tmp_path / f"{k}.tar", samples([k % 2], first=k))
    images = open_data(str(tmp_path), evaluation=True).test
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
    for i in [*range(9), *reversed(range(9))]:
        assert images.file(i)[1] == picture(i)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_a_shard_that_changes_under_a_run_is_told(folder):
    images = open_data(str(folder)).train
    os.truncate(folder / "train-000001.tar", 600)
    with pytest.raises(UserError, match=r"train-000001\.tar: is shorter than it was"):
        images.image(5)


# What is wrong with a shard


def link(kind):
    info = tarfile.TarInfo("2.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def device():
    info = tarfile.TarInfo("2.png")
    info.type = tarfile.CHRTYPE
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (link(tarfile.SYMTYPE), r"'2\.png' is a link: refused"),
        (link(tarfile.LNKTYPE), r"'2\.png' is a link: refused"),
        (device(), "is no regular file: refused"),
        (("../2.png", b"x"), r"'\.\./2\.png' is a name that leads out of its folder: refused"),
        (("a/../../2.png", b"x"), "leads out of its folder"),
        (("/etc/2.png", b"x"), "leads out of its folder"),
        (("C:\\2.png", b"x"), "leads out of its folder"),
        (("..\\2.png", b"x"), "leads out of its folder"),
    ],
)
def test_row_56_links_and_names_that_lead_out_are_refused(tmp_path, member, message):
    path = write(tmp_path / "all.tar", [*samples([0, 1]), member])
    with pytest.raises(UserError, match=rf"all\.tar: its member {message}" if message[0] == "'" else message):
        open_data(str(path))
    assert sorted(os.listdir(tmp_path)) == ["all.tar"]  # nothing was extracted


def test_row_56_nothing_is_written_but_the_index(folder):
    open_data(str(folder)).train.image(0)
    assert set(os.listdir(folder)) == {
        "classes.txt", "train-000000.tar", "train-000001.tar", "val-000000.tar", INDEX
    }  # fmt: skip


def test_row_56_members_have_a_largest_size(tmp_path, monkeypatch):
    path = write(tmp_path / "all.tar", [*samples([0, 1]), ("big.png", bytes(5000))])
    monkeypatch.setattr("vit.data.store.tar_scan.MAX_FILE", 4999)
    with pytest.raises(UserError, match=r"big\.png' is 5,000 bytes, more than the limit of 4,999: refused"):
        open_data(str(path))


def test_row_56_a_size_beyond_the_archive_is_no_allocation(tmp_path):
    info = tarfile.TarInfo("9.png")
    info.size = 200 * 2**20
    path = tmp_path / "all.tar"
    path.write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(UserError, match="cut off"):
        open_data(str(path))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_a_shard_that_is_cut_off(tmp_path, at):
    path = write(tmp_path / "all.tar", samples([0, 1] * 20))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * at) // 512 * 512 + 700])
    with pytest.raises(UserError, match=r"all\.tar: is (cut off|damaged)"):
        open_data(str(path))


def test_a_shard_that_is_cut_off_between_two_samples(tmp_path):
    path = write(tmp_path / "all.tar", samples([0, 1] * 20))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[20].offset
    os.truncate(path, end)
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 20  # tarfile sees nothing wrong
    with pytest.raises(UserError, match=r"all\.tar: is cut off: what ends an archive is missing"):
        open_data(str(path))


def test_a_damaged_header_does_not_end_the_shard_silently(tmp_path):
    path = write(tmp_path / "all.tar", samples([0, 1] * 20))
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        middle = archive.getmembers()[20].offset
    content[middle + 148 : middle + 156] = b"\xff" * 8  # the checksum
    path.write_bytes(content)
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 20  # what tarfile makes of it
    with pytest.raises(UserError, match=f"is damaged at byte {middle:,} of"):
        open_data(str(path))


def test_row_56_mutated_shards_are_read_or_refused_by_name(tmp_path):
    rng = random.Random(0)
    whole = write(tmp_path / "all.tar", samples([0, 1] * 4)).read_bytes()
    path = tmp_path / "x.tar"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            content[rng.randrange(len(content) // 2)] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            list(scan(str(path)))
            outcomes["read"] += 1
        except UserError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30


@pytest.mark.parametrize(("mode", "tool"), [("w:gz", "gunzip"), ("w:bz2", "bunzip2"), ("w:xz", "unxz")])
def test_a_compressed_archive(tmp_path, mode, tool):
    with tarfile.open(tmp_path / "all.tar", mode) as archive:
        info = tarfile.TarInfo("0.png")
        archive.addfile(info)
    with pytest.raises(UserError, match=f"is not a plain tar file. It is compressed, .*{tool} it first"):
        open_data(str(tmp_path / "all.tar"))


def test_several_images_in_a_sample(tmp_path):
    path = write(tmp_path / "all.tar", [("cat.1.jpg", b"x"), ("cat.2.jpg", b"x"), ("cat.cls", b"0")])
    with pytest.raises(UserError, match=r"the sample cat has several images: cat\.1\.jpg, cat\.2\.jpg.*first dot"):
        open_data(str(path))


def test_no_labels(tmp_path):
    path = write(tmp_path / "all.tar", [("cat/1.jpg", b"x"), ("dog/1.jpg", b"x")])
    with pytest.raises(UserError, match=r"no sample has a label\. .*class folders, unpack it"):
        open_data(str(path))


def test_row_6_a_label_beyond_the_classes(folder):
    write(folder / "train-000001.tar", samples([2, 0, 3], first=4))
    with pytest.raises(
        UserError, match=r"train-000001\.tar, 000006\.png: the label 3 is outside the allowed range 0\.\.2"
    ):
        open_data(str(folder))


@pytest.mark.parametrize("text", [b"\xff\xfe", b'{"label": 1.5}', b'{"label": [1]}', b"{", b'{"label": true}'])
def test_a_label_that_is_none(tmp_path, text):
    path = write(tmp_path / "all.tar", [("0.png", picture(0)), ("0.json", text)])
    with pytest.raises(UserError, match=r"all\.tar, 0\.json"):
        open_data(str(path))


def test_row_21_empty_images_are_left_out_by_name(folder):
    write(
        folder / "val-000000.tar", [*samples([0, 1, 2], first=10), ("99.png", b""), ("99.cls", b"0"), ("x.cls", b"0")]
    )
    notes = open_data(str(folder)).notes
    assert f"Left out 1 files of 0 bytes: {folder / 'val-000000.tar'}, 99.png." in notes
    assert "Left out 1 samples without an image." in notes


def test_row_32_a_corrupt_image_is_told_by_its_name(folder):
    members = samples([0, 1, 2], first=10)
    members[2] = (members[2][0], members[2][1][:60])
    write(folder / "val-000000.tar", members)
    with pytest.raises(UserError, match=r"val-000000\.tar, 000011\.png: cannot be decoded"):
        open_data(str(folder)).val.image(1)


def test_row_50_the_index_of_many_samples_is_small(tmp_path):
    """Arrays: some 60 bytes a sample, whatever the number of shards."""
    members = [m for i in range(3000) for m in ((f"{i:06d}.png", b"x"), (f"{i:06d}.cls", str(i % 10).encode()))]
    write(tmp_path / "all.tar", members)
    images = open_data(str(tmp_path), evaluation=True).test
    assert len(pickle.dumps(images)) < 70 * 3000
    assert {type(value) for value in vars(images.store).values()} <= {
        np.ndarray, str, tuple, type(images.store.names), type(images.store._opened)
    }  # fmt: skip
