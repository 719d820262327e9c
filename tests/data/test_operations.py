"""Changes of pixels, against torchvision's."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from vit.data.augment import operations
from vit.data.augment.color import color_matrix
from vit.data.augment.operations import STEPS, operation, randaugment, recolored, three_augment

NAMES = {"saturation": "Color", "autocontrast": "AutoContrast", **{f"{w}_{a}": f"{w.title()}{a.upper()}" for w in (
    "shear", "translate") for a in "xy"}}  # fmt: skip
FULL = {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30, "brightness": 0.9, "saturation": 0.9, "contrast": 0.9,
        "sharpness": 0.9}  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return load_sample_image("flower.jpg")[100:260, 200:424].copy()


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize("m", [1.0, 0.5, -0.5])
@pytest.mark.parametrize("step", STEPS)
def test_each_of_randaugment_s_operations_is_torchvision_s(photo, step, m):
    height, width = photo.shape[:2]
    full = {**FULL, "translate_x": 150 / 331 * width, "translate_y": 150 / 331 * height}
    strength = {"posterize": 8 - round(4 * abs(m)), "solarize": 1 - abs(m)}.get(step, full.get(step, 0) * m)
    expected = v2.RandAugment()._apply_image_or_video_transform(
        tensor(photo), NAMES.get(step, step.title()), strength, interpolation=InterpolationMode.BILINEAR,
        fill={torch.Tensor: [128.0] * 3},
    )  # fmt: skip
    difference = np.abs(operation(photo, step, m).astype(int) - expected.permute(1, 2, 0).numpy())
    # A warp differs at the edge that it uncovers, where linear interpolation meets the filling.
    assert (difference.max(axis=2) > 2).mean() < (0.01 if step in ("rotate", "shear_x", "shear_y") else 1e-9)
    if step != "identity" and (m > 0 or step in FULL):
        assert (operation(photo, step, m) != photo).mean() > 0.3


def test_randaugment_takes_all_operations_as_often(photo, monkeypatch):
    taken = []
    monkeypatch.setattr(operations, "operation", lambda pixels, step, m: taken.append((step, m)) or pixels)
    rng = np.random.default_rng(0)
    for _ in range(1400):
        randaugment(photo, 2, 0.9, rng)
    counts = np.array([sum(step == name for name, _ in taken) for step in STEPS])
    assert counts.sum() == 2800 and ((counts - 200) ** 2 / 200).sum() < 34.5  # chi-squared, 13 degrees, p = 0.001
    assert {m for _, m in taken} == {0.9, -0.9} and 1250 < sum(m > 0 for _, m in taken) < 1550


def test_three_augment_is_gray_or_solarized_or_blurred(photo):
    gray = three_augment(photo, 0.1, 0.5)
    assert np.abs(gray.astype(int) - F.rgb_to_grayscale(tensor(photo), 3).permute(1, 2, 0).numpy()).max() <= 1
    solar = three_augment(photo, 0.5, 0.5)
    np.testing.assert_array_equal(solar, F.solarize(tensor(photo), 128).permute(1, 2, 0).numpy())
    blurred = three_augment(photo, 0.9, 1.0)
    expected = F.gaussian_blur(tensor(photo), [17, 17], [2.0, 2.0]).permute(1, 2, 0).numpy()
    assert np.abs(blurred.astype(int) - expected)[10:-10, 10:-10].max() <= 2


@pytest.mark.parametrize("factors", [(1.2, 1, 1), (1, 1.4, 1), (1, 1, 0.4), (0.8, 1.3, 1.2)])
def test_one_matrix_does_what_torchvision_s_three_adjustments_do(factors):
    """On an image in the middle of the range, where torchvision clips nothing on the way."""
    image = np.random.default_rng(0).normal(120, 15, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    expected = tensor(image).float() / 255
    for adjust, factor in zip((F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True):
        expected = adjust(expected, factor)
    found = recolored(image, *factors)
    assert np.abs(found - expected.permute(1, 2, 0).numpy() * 255).max() < 0.8


def test_turning_the_hue_keeps_gray_and_lightness_and_turns_colors_the_way_of_hsv():
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.abs(recolored(gray, 1, 1, 1, 0.3).astype(int) - gray).max() <= 1
    matrix = color_matrix((0, 0, 0), 1, 1, 1, 0.05)[:, :3]
    np.testing.assert_allclose(np.array([0.299, 0.587, 0.114]) @ matrix, [0.299, 0.587, 0.114], atol=2e-3)
    for color in ((170, 120, 100), (90, 150, 80), (100, 110, 180)):
        for hue in (0.03, -0.03):
            turned = recolored(np.full((2, 2, 3), color, np.uint8), 1, 1, 1, hue)[0, 0] / 255
            found = colorsys.rgb_to_hsv(*turned)[0] - colorsys.rgb_to_hsv(*np.array(color) / 255)[0]
            assert 0.4 < found / hue < 1.8  # a turn in YIQ is not uniform in HSV


def test_small_images_survive():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (9, 2)):
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        for step in STEPS:
            assert operation(image, step, 1.0).shape == image.shape
        assert three_augment(image, 0.9, 1.0).shape == recolored(image, 1.1, 1.2, 0.9).shape == image.shape


def test_pillow_agrees_on_histograms(photo):
    from PIL import ImageOps

    image = Image.fromarray(photo)
    np.testing.assert_array_equal(operation(photo, "equalize", 1), np.asarray(ImageOps.equalize(image)))
    np.testing.assert_array_equal(operation(photo, "autocontrast", 1), np.asarray(ImageOps.autocontrast(image)))
