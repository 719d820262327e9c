"""The evaluation transform, from pixels to the tensor that a model sees; decoding is re-exported.

Evaluation and prediction both use it, so that they agree bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from vit.errors import UserError, nearest
from vit.images.decode import FORMATS as FORMATS
from vit.images.decode import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from vit.images.decode import MAX_PIXELS as MAX_PIXELS
from vit.images.decode import decode as decode
from vit.images.decode import image_size as image_size
from vit.typed import build

if TYPE_CHECKING:
    import torch


class Placement(NamedTuple):
    """x of the input = x of the image * scale_x + left, and y likewise; left and top in whole pixels."""

    scale_x: float
    scale_y: float
    left: int
    top: int


IN_CACHE = 200_000
"""Values that are normalized at a time on a CPU, so that all four passes find them in its cache."""
Resize = Literal["crop", "squash", "letterbox"]
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The evaluation transform. A checkpoint stores it, so that the checkpoint alone is enough to predict.

    size: (H, W) of the model's input, pixels.
    resize: "crop" scales until the image covers size / crop and takes the center, as timm does in evaluation;
        "squash" scales each side independently; "letterbox" fits the whole image in and fills with the mean.
    crop: for "crop" only, the share of the scaled image's shorter side that is kept, above 0 and up to 1.
    mean, std: per channel, of pixels in 0..1.
    """

    size: tuple[int, int]
    resize: Resize = "crop"
    crop: float = 1.0
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for field in ("size", "mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"preprocess.size is (height, width) in pixels, not {self.size}.")
        if self.resize not in ("crop", "squash", "letterbox"):
            raise UserError(f'preprocess.resize is "crop", "squash" or "letterbox", not "{self.resize}".')
        if not 0 < self.crop <= 1:
            raise UserError(f"preprocess.crop is a share above 0 and up to 1, not {self.crop}.")
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS)
            raise UserError(f"preprocess.interpolation is one of {', '.join(INTERPOLATIONS)}.{hint}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError("preprocess.mean and preprocess.std have three values each, std above 0.")

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] of any size -> uint8 [h, w, 3] of `self.size`; may return the same array."""
        height, width = self.size
        if image.shape[:2] == self.size and (self.resize != "crop" or self.crop == 1):
            return image
        resample = INTERPOLATIONS[self.interpolation]
        if self.resize == "squash":
            return np.array(Image.fromarray(image).resize((width, height), resample))
        if self.resize == "letterbox":
            return self._letterbox(image, resample)
        return self._crop(image, resample)

    def placement(self, size: tuple[int, int]) -> Placement:
        """Where an image of (H, W) pixels lies in the model's input. Raises UserError for "crop", which loses parts."""
        (height, width), (h, w) = self.size, size
        if self.resize == "crop":
            raise UserError('Boxes need the whole image: preprocess.resize "squash" or "letterbox", not "crop".')
        if self.resize == "squash" or size == self.size:
            return Placement(width / w, height / h, 0, 0)
        scale = min(height / h, width / w)
        new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
        return Placement(new_w / w, new_h / h, (width - new_w) // 2, (height - new_h) // 2)

    def _crop(self, image: np.ndarray, resample: Image.Resampling) -> np.ndarray:
        height, width = self.size
        image = _trim(image, max(height, width) / min(height, width) * 4)
        h, w = image.shape[:2]
        # floor, as in timm: 64 / 0.9 is 71. The small term keeps 224 / 0.875 at 256 whatever the rounding.
        target_h, target_w = (math.floor(side / self.crop + 1e-6) for side in self.size)
        scale = max(target_h / h, target_w / w)
        # The shorter side must hit its target exactly; the other is cut off as torchvision does.
        new_h = target_h if target_h / h == scale else max(target_h, int(h * scale))
        new_w = target_w if target_w / w == scale else max(target_w, int(w * scale))
        resized = np.asarray(Image.fromarray(image).resize((new_w, new_h), resample))
        top, left = round((new_h - height) / 2), round((new_w - width) / 2)
        return np.array(resized[top : top + height, left : left + width])

    def _letterbox(self, image: np.ndarray, resample: Image.Resampling) -> np.ndarray:
        h, w = image.shape[:2]
        place = self.placement((h, w))
        new_h, new_w = round(h * place.scale_y), round(w * place.scale_x)
        top, left = place.top, place.left
        canvas = np.empty((*self.size, 3), np.uint8)
        canvas[:] = np.rint(np.array(self.mean) * 255)
        resized = Image.fromarray(image).resize((new_w, new_h), resample)
        canvas[top : top + new_h, left : left + new_w] = np.asarray(resized)
        return canvas

    def tensor(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 [B, h, w, 3] -> normalized float32 [B, 3, h, w], on the device of `images`."""
        import torch

        if isinstance(images, np.ndarray):
            # torch warns about read-only arrays, such as views of a file.
            pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        else:
            pixels = images
        mean, std = self._statistics(pixels.device)
        count, height, width, channels = pixels.shape
        out = torch.empty((count, channels, height, width), dtype=torch.float32, device=pixels.device)
        step = max(1, count if pixels.device.type != "cpu" else IN_CACHE // (channels * height * width))
        for first in range(0, count, step):
            part = slice(first, first + step)
            out[part].copy_(pixels[part].permute(0, 3, 1, 2)).div_(255).sub_(mean).div_(std)
        return out

    def denormalize(self, tensor: torch.Tensor) -> np.ndarray:
        """The inverse of `tensor`: float [B, 3, h, w] -> uint8 numpy [B, h, w, 3], clipped to 0..255."""
        mean, std = self._statistics(tensor.device)
        pixels = (tensor.detach().float() * std + mean).mul(255).round().clamp(0, 255)
        return pixels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        mean = torch.tensor(self.mean, dtype=torch.float32, device=device)
        std = torch.tensor(self.std, dtype=torch.float32, device=device)
        return mean.view(3, 1, 1), std.view(3, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for config.json."""
        fields = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Inverse of `to_dict`; UserError for a missing or unknown field and for a value of another type."""
        return build(cls, values, "preprocess")


def _trim(image: np.ndarray, ratio: float) -> np.ndarray:
    """Cut the middle out of an image longer than `ratio` times its width (or the other way round).

    A center crop never sees the ends, and scaling a 1 x 1000 strip to 224 x 224000 first would take 150 MB.
    """
    h, w = image.shape[:2]
    limit = max(1, math.ceil(min(h, w) * ratio))
    if max(h, w) <= limit:
        return image
    top, left = max(0, (h - limit) // 2), max(0, (w - limit) // 2)
    return np.ascontiguousarray(image[top : top + limit, left : left + limit])
