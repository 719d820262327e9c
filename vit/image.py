"""From a file to the pixels a model sees in evaluation. The one home of decoding and of the eval transform.

`datasets/` and `vit.predict` both come here, which is why evaluation and prediction agree to the last bit.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vit.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

# What a photograph comes in. EPS runs Ghostscript, PSD and FITS are seldom images of this kind, and a file
# renamed to .jpg is recognised by its first bytes, so the list is what protects, not the suffix.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pillow warns from here to twice as many and refuses beyond. A warning does not stop an out-of-memory kill,
# so the whole zone is refused here.
MAX_PIXELS = 89_478_485

_log = logging.getLogger("vitral")
_open_lock = threading.Lock()
_animation_told = False


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as RGB: uint8 [H, W, 3], upright (EXIF applied once), transparent pixels over white.

    `source` is a path, the bytes of a file, an open binary file, a PIL image, or an array: uint8 or uint16
    [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or floating point in 0..1 of the same shapes. 16-bit values are
    divided by 257. The first frame of an animation is used. The user's file is never written to.

    Raises UserError, naming the file, for anything that is not a whole image in one of FORMATS or that has
    more than `max_pixels` pixels.
    """
    name = _name(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    try:
        if isinstance(source, Image.Image):
            return _pixels(source, name, max_pixels)
        with _open(source, name) as image:
            return _pixels(image, name, max_pixels)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file (current folder: {os.getcwd()}).") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder, not an image.") from None
    except Exception as error:
        # Pillow's plugins raise whatever a mutated header leads them to (OSError, SyntaxError, struct.error,
        # IndexError, ...): all of them mean that the file is no whole image.
        reason = str(error) or type(error).__name__
        raise UserError(f"{name}: cannot be decoded ({reason}). Replace or remove the file.") from error


def _pixels(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {max_pixels:,}. "
            "Make the image smaller, or raise max_pixels if you trust the file."
        )
    _tell_animation(image, name)
    # A full load, not verify(): only decoding to the end finds a truncated file.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return _to_rgb(image, name)


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, np.ndarray):
        return f"array {source.dtype} {list(source.shape)}"
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or type(source).__name__)


def _open(source: object, name: str) -> Image.Image:
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        source = Path(source)
        if source.is_file() and source.stat().st_size == 0:
            raise UserError(f"{name}: the file is empty (0 bytes). Replace or remove it.")
    # Pillow's own limit warns where this module refuses, and refuses what a caller may have allowed, so it is
    # set aside while the header is read: decode() checks the size before any pixel is. The lock keeps two
    # threads from restoring each other's value.
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(cast(Any, source), formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise UserError(
                f"{name}: not an image in one of the formats read here ({', '.join(FORMATS)})."
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _tell_animation(image: Image.Image, name: str) -> None:
    global _animation_told
    # Multi-page TIFF and JPEG's MPO are not animations in the same sense, but lose frames in the same way;
    # MPO is left out, as every phone writes a preview there.
    if _animation_told or image.format not in ("GIF", "WEBP", "PNG", "TIFF"):
        return
    if getattr(image, "is_animated", False):
        _animation_told = True
        _log.warning("%s has several frames: the first is used (said once, for all files).", name)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    mode = image.mode
    if mode == "RGB":
        return np.array(image)
    if mode.startswith("I;16"):
        return _gray(_from_16_bit(np.asarray(image).astype(np.uint16)))
    if mode == "I":
        # Pillow stretches a PGM of more than 8 bits to 16; other files do not say which range is meant.
        values = np.asarray(image)
        return _gray(_from_16_bit(values) if image.format == "PPM" else _from_int32(values, name))
    if mode == "F":
        return _gray(_from_float_file(np.asarray(image), name))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        # convert("RGB") would uncover whatever colour hides under transparent pixels.
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(white, layer).convert("RGB"))
    return np.array(image.convert("RGB"))


def _gray(values: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> [H, W, 3]."""
    return np.repeat(values[:, :, None], 3, axis=2)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """65535 -> 255, rounded. Pillow's convert clips at 255 instead, which makes everything white."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_int32(values: np.ndarray, name: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UserError(
            f"{name}: 32-bit values from {low} to {high} have no set brightness. Save it with 8 or 16 bits."
        )
    return values.astype(np.uint8) if high <= 255 else _from_16_bit(values)


def _from_float_file(values: np.ndarray, name: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    # NaN fails both comparisons, so it is refused as well.
    if low >= 0 and high <= 1:
        values = values * 255
    elif not (low >= 0 and high <= 255):
        raise UserError(
            f"{name}: floating-point values from {low:g} to {high:g}; read are 0..1 and 0..255. "
            "Scale the image, or save it with 8 bits."
        )
    return np.rint(values).astype(np.uint8)


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(
            f"{name}: an image array is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], channels last."
        )
    if array.dtype == np.uint16:
        array = _from_16_bit(array)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{name}: floating-point arrays are read as 0..1, this one has {low:g}..{high:g}."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"{name}: the element type must be uint8, uint16 or floating point in 0..1.")
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint16)
        over_white = array[:, :, :3] * alpha + np.uint16(255) * (255 - alpha)
        return ((over_white + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


class Placement(NamedTuple):
    """x of the input = x of the image * scale_x + left, and y likewise; left and top in whole pixels."""

    scale_x: float
    scale_y: float
    left: int
    top: int


def image_size(source: Source) -> tuple[int, int]:
    """(H, W) of an image as `decode` gives it, upright, from the header of a file. Raises UserError like `decode`."""
    if isinstance(source, np.ndarray | Image.Image):
        height, width = decode(source).shape[:2]
        return height, width
    name = _name(source)
    try:
        with _open(source, name) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file (current folder: {os.getcwd()}).") from None
    except Exception as error:
        raise UserError(f"{name}: cannot be decoded ({str(error) or type(error).__name__}).") from error


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
    """The evaluation transform: what a checkpoint stores so that it alone is enough to predict.

    size: (H, W) of the model's input, pixels.
    resize: "crop" scales until the image covers size / crop and takes the centre, as timm does in evaluation;
        "squash" scales each side by itself; "letterbox" fits the whole image in and fills with the mean.
    crop: for "crop" only, the share of the scaled image's shorter side that is kept.
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
        """uint8 [H, W, 3] of any size -> uint8 [h, w, 3] of `self.size`; may be the array it was given."""
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
            raise UserError('boxes need the whole image: preprocess.resize "squash" or "letterbox", not "crop".')
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
        """uint8 [B, h, w, 3] -> normalised float32 [B, 3, h, w], on the device of `images`."""
        import torch

        if isinstance(images, np.ndarray):
            # torch warns of arrays that cannot be written to, such as views of a file.
            pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        else:
            pixels = images
        mean, std = self._statistics(pixels.device)
        return pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255).sub_(mean).div_(std)

    def denormalise(self, tensor: torch.Tensor) -> np.ndarray:
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
        """Inverse of `to_dict`; UserError for a missing or unknown field."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise UserError(f'preprocess has no field "{key}".{nearest(key, known)}')
        if "size" not in values:
            raise UserError("preprocess needs the field size, (height, width) in pixels.")
        return cls(**values)


def _trim(image: np.ndarray, ratio: float) -> np.ndarray:
    """Cut the middle out of an image longer than `ratio` times its width (or the other way round).

    A centre crop never sees the ends, and scaling a 1 x 1000 strip to 224 x 224000 first would take 150 MB.
    """
    h, w = image.shape[:2]
    limit = max(1, math.ceil(min(h, w) * ratio))
    if max(h, w) <= limit:
        return image
    top, left = max(0, (h - limit) // 2), max(0, (w - limit) // 2)
    return np.ascontiguousarray(image[top : top + limit, left : left + limit])
