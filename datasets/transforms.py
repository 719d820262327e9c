"""Augmentation of one image, a pure function of (image, seed). The only file that imports albumentations."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
from types import ModuleType
from typing import Any

import numpy as np

from vit.errors import UserError, nearest
from vit.image import Preprocess

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Augment:
    """How far training images may be changed. Every operation is off at its default.

    degrees, shear: degrees, each way. translate: share of the side, each way. scale: range of zoom factors.
    crop: range of the share of the area that a random resized crop keeps; ratio: of its width / height.
    flip: probability of a left-right flip.
    brightness, contrast, saturation: relative, each way; hue: share of the colour circle, each way.
    three: probability of one of grayscale, solarize, blur (DeiT III, arXiv:2204.07118).
    operations, magnitude: RandAugment's N and M, M in 0..10 (arXiv:1909.13719).
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
    # Digits, letters, line art: strokes move and lean, but never flip and keep their colours.
    "glyph": Augment(degrees=15, translate=0.18, scale=(0.85, 1.15), shear=12),
    "light": Augment(crop=(0.35, 1.0), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
    # "How to train your ViT?", arXiv:2106.10270, at its medium setting.
    "augreg": Augment(crop=(0.08, 1.0), flip=0.5, operations=2, magnitude=10),
    "deit3": Augment(crop=(0.08, 1.0), flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, three=1.0),
}


def named_augment(name: str) -> Augment:
    """The entry of AUGMENTS; UserError with the nearest name."""
    if name not in AUGMENTS:
        raise UserError(f'No augmentation "{name}"; there are {", ".join(AUGMENTS)}.{nearest(name, AUGMENTS)}')
    return AUGMENTS[name]


class Pipeline:
    """(image uint8 [H, W, 3], seed in 0..2**64-1) -> uint8 [h, w, 3] of the model's input size.

    The same image and seed give the same pixels in any process and after any other calls. albumentations
    repeats one random stream in every worker, and seeding it as documented builds two generators for each
    operation; here all operations share two generators, whose state is set for each image (some 10 us).

    Raises UserError where albumentations is missing, unless nothing is to be augmented.
    """

    def __init__(self, augment: Augment, preprocess: Preprocess) -> None:
        self.augment = augment
        self.preprocess = preprocess
        self._generator = np.random.Generator(np.random.PCG64(0))
        self._random = random.Random(0)
        # Built here, not at first use: what is missing is found before training, forked workers inherit it.
        self._compose = None if augment == Augment() else compose(augment, preprocess)
        if self._compose is not None:
            self._compose.set_random_state(self._generator, self._random)

    @property
    def random(self) -> bool:
        """Whether the seed makes a difference."""
        return self._compose is not None

    def __reduce__(self) -> tuple[type[Pipeline], tuple[Augment, Preprocess]]:
        # Workers that are not forked build their own: the operations hold OpenCV flags and generators.
        return Pipeline, (self.augment, self.preprocess)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        if self._compose is None:
            return self.preprocess.pixels(image)
        self._reseed(seed)
        if self.augment.crop is None:
            image = self.preprocess.pixels(image)
        return self._compose(image=image)["image"]

    def _reseed(self, seed: int) -> None:
        digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=40).digest()
        self._random.seed(int.from_bytes(digest[32:], "little"))
        # PCG64's increment is odd by definition.
        state, increment = int.from_bytes(digest[:16], "little"), int.from_bytes(digest[16:32], "little") | 1
        self._generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }


def compose(augment: Augment, preprocess: Preprocess) -> Any:
    """The albumentations Compose for `augment`: geometry, then colour, then erasing."""
    A, cv2 = _libraries()
    interpolation = {
        "nearest": cv2.INTER_NEAREST,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
        "box": cv2.INTER_AREA,
    }[preprocess.interpolation]
    steps: list[Any] = []
    if augment.crop is not None:
        steps.append(
            A.RandomResizedCrop(
                size=preprocess.size,
                scale=augment.crop,
                ratio=augment.ratio,
                interpolation=interpolation,
                # OpenCV's other modes look at a few pixels only and alias when a photograph shrinks.
                area_for_downscale="image",
            )
        )
    if augment.affine:
        steps.append(
            A.Affine(
                rotate=(-augment.degrees, augment.degrees),
                translate_percent=(-augment.translate, augment.translate),
                scale=augment.scale,
                shear=(-augment.shear, augment.shear),
                # A constant would draw a black frame on white paper; the edge's own colour fits both.
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            )
        )
    if augment.flip:
        steps.append(A.HorizontalFlip(p=augment.flip))
    if augment.operations:
        steps.append(A.SomeOf(_operations(A, cv2, augment.magnitude / 10), n=augment.operations, replace=True))
    if augment.three:
        choices = [
            A.ToGray(p=1.0),
            A.Solarize(threshold_range=(0.5, 0.5), p=1.0),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=1.0),
        ]
        steps.append(A.OneOf(choices, p=augment.three))
    if augment.color:
        steps.append(
            A.ColorJitter(
                brightness=_around_one(augment.brightness),
                contrast=_around_one(augment.contrast),
                saturation=_around_one(augment.saturation),
                hue=(-augment.hue, augment.hue),
                p=1.0,
            )
        )
    if augment.erase:
        steps.append(A.Erasing(scale=(0.02, 0.33), ratio=(0.3, 3.3), fill="random", p=augment.erase))
    return A.Compose(steps)


def _operations(A: ModuleType, cv2: ModuleType, m: float) -> list[Any]:
    """RandAugment's operations, at the share `m` of their full strength; ranges as in its table 6."""

    def affine(**options: Any) -> Any:
        return A.Affine(border_mode=cv2.BORDER_CONSTANT, fill=128, p=1.0, **options)

    def color(name: str) -> Any:
        # ColorJitter's defaults are not off, so all four are given.
        off = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return A.ColorJitter(**{**off, name: _around_one(0.9 * m)}, p=1.0)

    def either(low: float, high: float) -> Range:
        return (low * m, high * m)

    return [
        A.NoOp(p=1.0),
        A.AutoContrast(p=1.0),
        A.Equalize(p=1.0),
        A.Posterize(num_bits=max(1, round(8 - 4 * m)), p=1.0),
        A.Solarize(threshold_range=(1 - m, 1.0), p=1.0),
        A.Sharpen(alpha=either(0.0, 0.9), lightness=(1.0, 1.0), p=1.0),
        color("brightness"),
        color("contrast"),
        color("saturation"),
        affine(rotate=either(-30, 30)),
        affine(shear={"x": either(-17, 17), "y": (0, 0)}),
        affine(shear={"x": (0, 0), "y": either(-17, 17)}),
        affine(translate_percent={"x": either(-0.45, 0.45), "y": (0, 0)}),
        affine(translate_percent={"x": (0, 0), "y": either(-0.45, 0.45)}),
    ]


def _around_one(strength: float) -> Range:
    return (max(0.0, 1 - strength), 1 + strength)


def _libraries() -> tuple[ModuleType, ModuleType]:
    """albumentations and cv2, ready for workers."""
    # Without this, importing albumentations asks the network for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise UserError(
            f"Augmentation needs albumentations and OpenCV ({error}): pip install albumentations==2.0.8 "
            '"opencv-python-headless<6", or train with the augmentation "none".'
        ) from None
    # One image is one core's work, and OpenCV's threads hang in forked workers.
    cv2.setNumThreads(0)
    return albumentations, cv2
