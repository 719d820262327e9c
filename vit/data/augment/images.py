"""Augmentation of one image: a pure function of (image, seed). The only file that imports albumentations."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from vit.data.augment.crop import TRIES, random_crop, resized, window_for
from vit.data.sets.window import Choose, View, all_of, whole_cut
from vit.errors import UserError, nearest
from vit.images.preprocess import Preprocess

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Augment:
    """Strength of the augmentation. Every operation is off by default.

    degrees, shear: in degrees, +-. translate: share of the side, +-. scale: range of zoom factors.
    crop: range of the share of the area that a random resized crop keeps; ratio: range of its width / height.
    flip: probability of a left-right flip.
    brightness, contrast, saturation: relative, +-; hue: share of the color circle, +-.
    three: probability of one of grayscale, solarize, blur (DeiT III, arXiv:2204.07118).
    operations, magnitude: RandAugment's N and M, M in 0..10, full strength at 10 (arXiv:1909.13719, table 6).
    erase: probability of erasing one rectangle, filled with noise (arXiv:1708.04896).
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: Range = (1.0, 1.0)
    shear: float = 0.0
    crop: Range | None = None
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    three: float = 0.0
    operations: int = 0
    magnitude: float = 9.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "three", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name} is a probability in 0..1, not {getattr(self, name)}.")
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UserError(f"augment.crop is a range of shares of the area within 0..1, not {self.crop}.")
        if not 0 <= self.magnitude <= 10:
            raise UserError(f"augment.magnitude is in 0..10, not {self.magnitude}.")

    @property
    def affine(self) -> bool:
        return bool(self.degrees or self.translate or self.shear or self.scale != (1.0, 1.0))

    @property
    def color(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue)


AUGMENTS = {
    "none": Augment(),
    # Digits, letters, line art: strokes shift and lean, but are never flipped or recolored.
    "glyph": Augment(degrees=15, translate=0.18, scale=(0.85, 1.15), shear=12),
    "light": Augment(crop=(0.35, 1.0), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
    # "How to train your ViT?", arXiv:2106.10270: its light2 (with mixup 0.2). Its stronger levels exceed our scale.
    "augreg": Augment(crop=(0.05, 1.0), flip=0.5, operations=2, magnitude=10),
    # DeiT III, arXiv:2204.07118: 3-Augment and its color jitter.
    "deit3": Augment(crop=(0.08, 1.0), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, three=1.0),
}


def named_augment(name: str) -> Augment:
    """The entry of AUGMENTS. Raises UserError with the nearest name."""
    if name not in AUGMENTS:
        raise UserError(f'No augmentation "{name}"; there are {", ".join(AUGMENTS)}.{nearest(name, AUGMENTS)}')
    return AUGMENTS[name]


class Pipeline:
    """(image uint8 [H, W, 3], seed in 0..2**64-1) -> uint8 [h, w, 3] of the model's input size.

    The same image and seed give the same pixels in any process and after any other calls. albumentations repeats one
    random stream in every worker, and its documented seeding builds two generators per operation; here all operations
    share generators whose state is set for each image (about 10 us).
    Raises UserError if OpenCV or albumentations is needed but missing.
    """

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        self.augment = augment
        self.preprocess = preprocess
        # Built here, not on first use: a missing package shows before training, and forked workers inherit it.
        self._operations = None if augment == Augment() else pixel_operations()
        self._affine = _Affine(augment) if augment.affine else None
        self._generator = np.random.Generator(np.random.PCG64(0))

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        return self.augment != Augment()

    def __reduce__(self) -> tuple[type[Pipeline], tuple[Augment, Preprocess]]:
        # Workers that are not forked build their own, since the operations hold OpenCV flags and generators.
        return Pipeline, (self.augment, self.preprocess)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        return self.read(partial(whole_cut, image), seed)

    def read(self, view: Callable[[Choose], View], seed: int) -> np.ndarray:
        """Decode and augment an image: `view` decodes only the part that the crop shows."""
        a, size = self.augment, self.preprocess.size
        rng = _seeded(self._generator, hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=32, person=b"own"))
        # All numbers are drawn, used or not, so that switching one change off leaves the others the same.
        places, (flip, three, which, strength, erase, *colors) = rng.random((TRIES, 4)), rng.random(9).tolist()
        if a.crop is None:
            pixels = self.preprocess.pixels(view(all_of).pixels)
        else:
            area = a.crop
            crop = view(lambda full: window_for(random_crop(full, area, a.ratio, places), size))
            pixels = resized(crop.pixels, size, self.preprocess.interpolation)
        if self._affine is not None:
            pixels = self._affine(pixels, seed)
        if self._operations is None:
            return pixels
        if flip < a.flip:
            pixels = self._operations.mirrored(pixels)
        if a.operations:
            pixels = self._operations.randaugment(pixels, a.operations, a.magnitude / 10, rng)
        if three < a.three:
            pixels = self._operations.three_augment(pixels, which, strength)
        if a.color:
            pixels = self._operations.recolored(pixels, *color_factors(a, colors))
        if erase < a.erase:
            pixels = erased(pixels, rng)
        return pixels


def color_factors(augment: Any, numbers: Sequence[float]) -> tuple[float, ...]:
    """Brightness, contrast, saturation and hue for `recolored`: numbers in 0..1, scaled to the ranges of `augment`."""
    reaches = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    *factors, hue = (reach * (2 * number - 1) for reach, number in zip(reaches, numbers, strict=True))
    return (*(max(0.0, 1 + factor) for factor in factors), hue)


def erased(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels with noise in one rectangle: 2 to 33 % of the area, aspect ratio 3:10 to 10:3 (arXiv:1708.04896)."""
    size = (pixels.shape[0], pixels.shape[1])
    left, top, right, bottom = random_crop(size, (0.02, 0.33), (0.3, 10 / 3), rng.random((TRIES, 4)))
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = rng.integers(0, 256, (bottom - top, right - left, 3), np.uint8)
    return pixels


def _seeded(generator: np.random.Generator, digest: Any) -> np.random.Generator:
    """Set the state of `generator` from a 32-byte digest, and return it."""
    block = digest.digest()
    # PCG64's increment is odd by definition.
    state, increment = int.from_bytes(block[:16], "little"), int.from_bytes(block[16:32], "little") | 1
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": increment},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return generator


class _Affine:
    """Rotation, shear, zoom and translation in one interpolation: albumentations' Affine, (pixels, seed) -> pixels."""

    def __init__(self, augment: Augment) -> None:
        A, cv2 = _albumentations()
        self._generator, self._random = np.random.Generator(np.random.PCG64(0)), random.Random(0)
        step = A.Affine(
            rotate=(-augment.degrees, augment.degrees),
            translate_percent=(-augment.translate, augment.translate),
            scale=augment.scale,
            shear=(-augment.shear, augment.shear),
            # A constant would draw a black frame around white paper; the color of the edge always fits.
            border_mode=cv2.BORDER_REPLICATE,
            p=1.0,
        )
        self._compose = A.Compose([step])
        self._compose.set_random_state(self._generator, self._random)

    def __call__(self, pixels: np.ndarray, seed: int) -> np.ndarray:
        digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=40)
        self._random.seed(int.from_bytes(digest.digest()[32:], "little"))
        _seeded(self._generator, digest)
        return self._compose(image=pixels)["image"]


def pixel_operations() -> ModuleType:
    """vit.data.augment.operations, imported lazily: evaluation needs no OpenCV and does not wait for it."""
    try:
        return import_module("vit.data.augment.operations")
    except ImportError as error:
        raise UserError(
            f'Augmentation needs OpenCV ({error}): pip install "opencv-python-headless<6", or train with the '
            'augmentation "none".'
        ) from None


def _albumentations() -> tuple[ModuleType, ModuleType]:
    """albumentations and cv2, ready for workers."""
    # Otherwise albumentations checks the network for a newer version on import.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise UserError(
            f"Rotating, zooming and shearing needs albumentations ({error}): pip install albumentations==2.0.8, or "
            'train with the augmentation "light".'
        ) from None
    cv2.setNumThreads(0)
    return albumentations, cv2
