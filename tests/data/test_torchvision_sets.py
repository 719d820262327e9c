"""`torchvision:NAME` against torchvision's own classes, on tiny files in the data sets' own forms."""

import gzip
import hashlib
import inspect
import pickle
import struct

import numpy as np
import pytest
import torchvision
from PIL import Image

from vit.data import open_data
from vit.data.labels.torchvision import SETS, _accepted
from vit.data.sets.imageset import FileSet
from vit.errors import UserError

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """A download is an error of the network here, as it is without one."""

    def offline(*_, **__):
        raise OSError("no network")

    for name in ("download_url", "download_and_extract_archive", "download_file_from_google_drive"):
        for module in list(vars(torchvision.datasets).values()):
            if inspect.ismodule(module) and hasattr(module, name):
                monkeypatch.setattr(module, name, offline)


def same(images, theirs, rows=None):
    """Labels and pixels are those that torchvision gives, row by row."""
    rows = range(len(theirs)) if rows is None else rows
    assert len(images) == len(rows)
    for i, row in enumerate(rows):
        picture, label = theirs[row]
        np.testing.assert_array_equal(images.image(i), np.asarray(picture.convert("RGB")))
        assert int(label) == images.targets[i]


@pytest.mark.parametrize("name", SETS)
def test_torchvision_takes_the_arguments_of_every_set(name):
    kind = getattr(torchvision.datasets, name)
    for how in SETS[name].splits.values():
        for variant in SETS[name].variants.values():
            assert {*how, *variant} <= _accepted(kind), name


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 30), ("t10k", 10)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n, dtype=np.uint8) % 10))
    return tmp_path


def test_mnist(mnist):
    data = open_data(f"torchvision:MNIST@{mnist}")
    assert {n: len(s) for n, s in data.splits().items()} == {"train": 20, "val": 10, "test": 10}
    assert data.classes[3] == "3 - three" and "seed 0" in data.notes[0]
    same(data.test, torchvision.datasets.MNIST(str(mnist), train=False))
    whole = torchvision.datasets.MNIST(str(mnist), train=True)
    same(data.train, whole, data.train.rows)
    assert sorted([*data.train.rows, *data.val.rows]) == list(range(30))
    assert data.test.name(3) == "torchvision:MNIST/test/3"
    assert data.record["source"] == f"torchvision:MNIST@{mnist}"
    again = open_data(data.record["source"])
    assert again.record == data.record


def test_a_relative_folder_is_recorded_as_it_is_found_from_everywhere(mnist, monkeypatch):
    monkeypatch.chdir(mnist.parent)
    data = open_data(f"torchvision:MNIST@{mnist.name}")
    assert data.record["source"] == f"torchvision:MNIST@{mnist}"


def test_the_cache_folder_is_the_default(mnist, monkeypatch):
    monkeypatch.setenv("VITRAL_CACHE", str(mnist.parent / "cache"))
    (mnist.parent / "cache").mkdir()
    mnist.rename(mnist.parent / "cache" / "torchvision")
    assert len(open_data("torchvision:MNIST").test) == 10


def test_cifar(tmp_path, monkeypatch):
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()

    def write(name, content):
        text = pickle.dumps(content)
        (base / name).write_bytes(text)
        return [name, hashlib.md5(text).hexdigest()]

    def batch(n):
        return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [i % 3 for i in range(n)]}

    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [write(f"data_batch_{k}", batch(12)) for k in range(1, 3)])
    monkeypatch.setattr(kind, "test_list", [write("test_batch", batch(9))])
    names = ["cat", "dog", "hen"]
    file, md5 = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(kind, "meta", {"filename": file, "key": "label_names", "md5": md5})
    data = open_data(f"torchvision:CIFAR10@{tmp_path}")
    assert data.classes == ("cat", "dog", "hen")
    same(data.test, kind(str(tmp_path), train=False))
    same(data.train, kind(str(tmp_path), train=True), data.train.rows)
    # A file that is not the original one is no pickle to trust.
    (base / "test_batch").write_bytes(pickle.dumps(batch(9)))
    with pytest.raises(UserError, match=r"torchvision:CIFAR10@.*is not in .* could not be downloaded"):
        open_data(f"torchvision:CIFAR10@{tmp_path}")


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)


def test_sets_of_files_become_files(tmp_path):
    """Whatever their class lists, in the order of the names: no torchvision object is carried into workers."""
    for split in ("train", "valid", "test"):
        for country in ("DE", "FR"):
            for i in range(3):
                photo(tmp_path / "country211" / split / country / f"{i}.jpg")
    data = open_data(f"torchvision:Country211@{tmp_path}")
    assert data.classes == ("DE", "FR") and isinstance(data.train, FileSet)
    assert {n: len(s) for n, s in data.splits().items()} == {"train": 6, "val": 6, "test": 6}
    same(data.val, torchvision.datasets.Country211(str(tmp_path), split="valid"))
    assert data.val.key(4) == b"country211/valid/FR/1.jpg"
    assert data.val.file(4) == (".jpg", (tmp_path / "country211/valid/FR/1.jpg").read_bytes())


def test_a_variant(tmp_path):
    labels = tmp_path / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    for name in ("braided", "dotted"):
        for i in range(4):
            photo(tmp_path / "dtd/dtd/images" / name / f"{name}_{i}.jpg")
    for partition, order in ((1, (0, 1, 2)), (2, (2, 3, 1))):
        for split, i in zip(("train", "val", "test"), order, strict=True):
            lines = [f"{name}/{name}_{i}.jpg\n" for name in ("braided", "dotted")]
            (labels / f"{split}{partition}.txt").write_text("".join(lines))
    data = open_data(f"torchvision:DTD/2@{tmp_path}")
    assert [data.train.key(i) for i in range(2)] == [
        b"dtd/dtd/images/braided/braided_2.jpg", b"dtd/dtd/images/dotted/dotted_2.jpg"
    ]  # fmt: skip
    same(data.train, torchvision.datasets.DTD(str(tmp_path), split="train", partition=2))
    with pytest.raises(UserError, match="the variants of DTD are 1, 2, 3"):
        open_data(f"torchvision:DTD/12@{tmp_path}")


def test_celeba_has_several_labels(tmp_path, monkeypatch):
    base = tmp_path / "celeba"
    names = [f"{i:06d}.jpg" for i in range(6)]
    for name in names:
        photo(base / "img_align_celeba" / name)
    attributes = rng.choice([-1, 1], (6, 3))
    attributes[0] = 1  # training knows every one
    rows = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, attributes, strict=True)]
    (base / "list_attr_celeba.txt").write_text("\n".join(["6", "Bald Smiling Young", *rows]) + "\n")
    for name in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        (base / name).write_text("\n".join(["6", "a b", *(f"{name} 1 2" for name in names)]) + "\n")
    (base / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in names))
    (base / "list_eval_partition.txt").write_text("".join(f"{name} {i // 2}\n" for i, name in enumerate(names)))
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    data = open_data(f"torchvision:CelebA@{tmp_path}", evaluation=True)
    assert data.multilabel and data.classes == ("Bald", "Smiling", "Young")
    np.testing.assert_array_equal(data.val.targets, (attributes[2:4] + 1) / 2)
    theirs = torchvision.datasets.CelebA(str(tmp_path), split="test")
    np.testing.assert_array_equal(data.test.image(1), np.asarray(theirs[1][0]))


def test_images_without_a_label_are_left_out(tmp_path, monkeypatch):
    """FER2013's own test file has no labels."""
    base = tmp_path / "fer2013"
    base.mkdir()
    pixels = " ".join(["7"] * 48 * 48)
    (base / "train.csv").write_text("emotion,pixels\n" + "".join(f"{i % 2},{pixels}\n" for i in range(6)))
    (base / "test.csv").write_text("pixels\n" + f"{pixels}\n" * 3)
    monkeypatch.setattr("torchvision.datasets.fer2013.check_integrity", lambda *_, **__: True)
    data = open_data(f"torchvision:FER2013@{tmp_path}")
    assert data.test is None and len(data.train) + len(data.val) == 6
    assert "Left out 3 images of test that have no label." in data.notes


def test_fake_data(monkeypatch):
    monkeypatch.setitem(SETS, "FakeData", SETS["FakeData"]._replace(
        splits={"train": {"size": 40, "image_size": (3, 8, 8)}, "test": {"size": 9, "image_size": (3, 8, 8)}}
    ))  # fmt: skip
    data = open_data("torchvision:FakeData")
    assert len(data.classes) == 10
    theirs = torchvision.datasets.FakeData(size=9, image_size=(3, 8, 8))
    for i in range(9):
        assert data.classes[data.test.targets[i]] == str(int(theirs[i][1]))
        np.testing.assert_array_equal(data.test.image(i), np.asarray(theirs[i][0]))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"these have labeled images: CIFAR10.*Did you mean \"CIFAR10\""):
        open_data("torchvision:CIFR10")
    with pytest.raises(UserError, match="labeled images"):
        open_data("torchvision:Kinetics")
    with pytest.raises(UserError, match=r"SVHN@.*is not in .*could not be downloaded.*torchvision:SVHN@FOLDER"):
        open_data(f"torchvision:SVHN@{tmp_path}")
    with pytest.raises(UserError, match="torchvision has no download for it"):
        open_data(f"torchvision:ImageNet@{tmp_path}")


def test_row_32_an_image_that_torchvision_cannot_read(tmp_path):
    for split in ("Training/00000", "Training/00001"):
        for i in range(3):
            photo(tmp_path / "gtsrb/GTSRB" / split / f"{i}.ppm")
    (tmp_path / "gtsrb/GTSRB/Final_Test/Images").mkdir(parents=True)
    photo(tmp_path / "gtsrb/GTSRB/Final_Test/Images/0.ppm")
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;1\n")
    data = open_data(f"torchvision:GTSRB@{tmp_path}")
    assert data.classes == ("0", "1")
    (tmp_path / "gtsrb/GTSRB/Final_Test/Images/0.ppm").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match="torchvision:GTSRB/test/0: cannot be decoded"):
        data.test.image(0)
