"""Image files, bytes, PIL images and arrays -> RGB pixels: the one place where images are decoded."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vit.errors import UserError
from vit.images.rgb import from_array, to_rgb

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

# EPS runs Ghostscript, PSD and FITS rarely hold photographs. Pillow recognizes a file by its first bytes whatever its
# suffix, so this list is the protection.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# In a folder, files with these suffixes (in any case) count as images; a file that is named by itself is always tried.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
)


def allowed_pixels(setting: str | None) -> int:
    """The user's setting, or 89,478,485. Raises UserError if it is not a number."""
    # Pillow warns above this number and refuses above twice as many. A warning does not stop an out-of-memory kill, so
    # both are refused here.
    try:
        return 89_478_485 if setting is None else int(setting)
    except ValueError:
        raise UserError(f"VITRAL_MAX_PIXELS is {setting!r}; it must be a number of pixels.") from None


MAX_PIXELS = allowed_pixels(os.environ.get("VITRAL_MAX_PIXELS"))

_log = logging.getLogger("vitral")
_open_lock = threading.Lock()
_animation_reported = False


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as RGB: uint8 [H, W, 3], upright (EXIF applied once), transparent pixels over white.

    `source` is a path, the bytes of a file, an open binary file, a PIL image, or an array: uint8 or uint16
    [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or floating point in 0..1 of the same shapes. 16-bit values are
    divided by 257. The first frame of an animation is used. The file is never written to.

    Raises UserError, naming the file, unless it is a complete image in one of FORMATS with at most `max_pixels`
    pixels.
    """
    if isinstance(source, np.ndarray):
        return from_array(source, name_of(source))
    with opened(source, max_pixels=max_pixels) as image:
        # A full load, not verify(): only decoding to the end finds a truncated file.
        image.load()
        return to_rgb(upright(image), name_of(source))


def image_size(source: Source) -> tuple[int, int]:
    """(H, W) of an image as `decode` gives it, upright, from the header of a file. Raises UserError like `decode`."""
    if isinstance(source, np.ndarray | Image.Image):
        height, width = decode(source).shape[:2]
        return height, width
    with opened(source, max_pixels=None) as image:
        return upright_size(image)


@contextmanager
def opened(source: Source, *, max_pixels: int | None = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image of a source that is not an array, with its header read and its pixels not yet.

    Any error within the context becomes a UserError that names the source.
    """
    name = name_of(source)
    try:
        with ExitStack() as stack:
            image = source if isinstance(source, Image.Image) else stack.enter_context(_open(source, name))
            if max_pixels is not None:
                _require_fewer(image, name, max_pixels)
                _require_enough(image, name)
                _report_animation(image, name)
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file (current folder: {os.getcwd()}).") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder, not an image.") from None
    except Exception as error:
        # A damaged header makes Pillow's plugins raise anything (OSError, SyntaxError, struct.error, IndexError, ...).
        reason = str(error) or type(error).__name__
        raise UserError(f"{name}: cannot be decoded ({reason}). Replace or remove the file.") from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation."""
    return ImageOps.exif_transpose(image) if orientation(image) != 1 else image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) after `upright`."""
    turned = orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8, without decoding: Pillow would decode every PNG to find EXIF that comes
    after the pixels."""
    file = file_of(image)
    if image.format == "PNG" and "exif" not in image.info and file is not None:
        bomb = image.width * image.height > MAX_PIXELS
        if bomb or not _late_exif(file):
            return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def file_of(image: Image.Image) -> BinaryIO | None:
    """The file that an image is read from; None once its pixels are loaded."""
    return getattr(image, "fp", None)


def _late_exif(file: BinaryIO) -> bool:
    """Whether an open PNG has an EXIF chunk, from the headers of its chunks."""
    place = file.tell()
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            if head[4:] == b"eXIf":
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _require_fewer(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UserError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {max_pixels:,}. "
            "Make the image smaller or, if you trust the file, allow more: VITRAL_MAX_PIXELS in the environment."
        )


def _require_enough(image: Image.Image, name: str) -> None:
    """Raises UserError for a JPEG that is too short for its size: each block of 64 values takes at least one bit.
    Pillow fills in gray for what is missing, and the damaged header of a small file could claim all the memory that
    `max_pixels` allows."""
    file = file_of(image)
    if image.format not in ("JPEG", "MPO") or file is None:
        return
    here = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(here)
    if 8 * length < image.width * image.height // 64:
        raise UserError(
            f"{name}: cannot be decoded ({length:,} bytes do not hold {image.width} x {image.height} pixels). "
            "Replace or remove the file."
        )


def name_of(source: object) -> str:
    """The name of a source in messages."""
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
    # Pillow's own limit warns where this module refuses, and refuses what a caller may have allowed. It is set aside
    # while the header is read; decode() checks the size before any pixel is read. The lock keeps two threads from
    # restoring each other's value.
    with _open_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(cast(Any, source), formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise UserError(f"{name}: not an image in one of the formats read here ({', '.join(FORMATS)}).") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _report_animation(image: Image.Image, name: str) -> None:
    global _animation_reported
    # A multi-page TIFF loses frames in the same way as an animation. MPO is left out: phones write a preview there.
    if _animation_reported or image.format not in ("GIF", "WEBP", "PNG", "TIFF"):
        return
    if getattr(image, "is_animated", False):
        _animation_reported = True
        _log.warning("%s has several frames; the first is used. (This is logged once, for all files.)", name)
