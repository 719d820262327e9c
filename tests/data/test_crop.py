"""Crops as torchvision draws them, scaling as Pillow does it."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from vit.data.augment.crop import SPARE, TRIES, random_crop, resized, window_for
from vit.images.preprocess import INTERPOLATIONS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(375, 500), (300, 90)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 0.9)])
def test_crops_are_distributed_as_torchvision_s(size, area):
    import torch

    torch.manual_seed(0)
    ratio, n = (3 / 4, 4 / 3), 1500
    transform, image = v2.RandomResizedCrop(224, scale=area, ratio=ratio), torch.empty(3, *size)
    theirs = []
    for _ in range(n):
        made = transform.make_params([image])
        theirs.append((made["left"], made["top"], made["left"] + made["width"], made["top"] + made["height"]))
    ours = [random_crop(size, area, ratio, RNG.random((TRIES, 4))) for _ in range(n)]
    a, b = np.array(ours, float), np.array(theirs, float)
    for one, other in ((a, b), (np.log(a[:, 2:] - a[:, :2]), np.log(b[:, 2:] - b[:, :2]))):
        for column in range(one.shape[1]):
            assert ks_2samp(one[:, column], other[:, column]).pvalue > 1e-3
    assert (a[:, :2] >= 0).all() and (a[:, 2:] <= [size[1], size[0]]).all() and (a[:, 2:] > a[:, :2]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (700, 2), (8, 8)])
def test_extreme_images_have_crops(size):
    for _ in range(50):
        left, top, right, bottom = random_crop(size, (0.08, 1.0), (3 / 4, 4 / 3), RNG.random((TRIES, 4)))
        assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
@pytest.mark.parametrize("size", [(50, 40), (224, 224), (133, 171)])
def test_scaling_is_pillow_s(interpolation, size):
    image = RNG.integers(0, 256, (133, 171, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((size[1], size[0]), INTERPOLATIONS[interpolation]))
    found = resized(image, size, interpolation)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    # Pillow rounds its weights to 8 bits, torch to 16.
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_parts_of_arrays_that_are_not_to_be_written_to_are_scaled():
    image = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    image.setflags(write=False)
    for part in (image, image[8:40, 8:40], image[:, ::-1]):
        np.testing.assert_array_equal(resized(part, (16, 16), "bilinear"), resized(part.copy(), (16, 16), "bilinear"))
        assert resized(part, part.shape[:2], "bilinear").tobytes() == part.tobytes()


def test_a_window_is_reduced_as_far_as_enough_pixels_are_left():
    seen = set()
    for side in range(100, 4000, 37):
        window = window_for((11, 5, 11 + side, 5 + side), (224, 224))
        seen.add(window.by)
        assert all(value % window.by == 0 for value in window[:4])
        assert np.abs(np.subtract(window[:4], (11, 5, 11 + side, 5 + side))).max() <= window.by / 2
        if window.by > 1:
            assert side / window.by >= SPARE * 224
        if window.by < 8:
            assert side / (2 * window.by) < SPARE * 224
    assert seen == {1, 2, 4, 8}
    assert window_for((0, 0, 4000, 300), (224, 224)).by == 1  # the shorter side decides
