"""All checks of one image file, which is read once."""

from __future__ import annotations

import hashlib
import io
import logging
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from vit.data.check.lookalikes import Look, look_of
from vit.data.sets.imageset import ImageSet
from vit.errors import UserError
from vit.images.decode import name_of
from vit.images.preprocess import FORMATS, MAX_PIXELS, decode

ORDINARY = ("RGB", "L")
"""Modes that are not reported."""
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm"),
}
FOREIGN = {
    b"<!DOCTYPE html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "SVG",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
    b"8BPS": "PSD",
    b"SIMPLE  =": "FITS",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x00\x00\x01\x00": "ICO",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"version https://git-lfs": "a Git LFS pointer: git lfs pull fetches the image",
}
"""First bytes of files that are not images in a supported format."""


class Seen(NamedTuple):
    """The result for one image. fault: id of a kind, "" if it can be read; detail: follows the name in messages."""

    fault: str = ""
    detail: str = ""
    digest: bytes = b""
    """BLAKE2b-128 of the file's bytes."""
    size: tuple[int, int] = (0, 0)
    """(H, W), upright; (0, 0) if it cannot be read."""
    notes: tuple[tuple[str, str], ...] = ()
    """(id, detail) of findings on a readable image."""
    look: Look | None = None


def inspect_image(images: ImageSet, i: int) -> Seen:
    """Read, decode and describe image i. Never raises for the content of the file."""
    log = logging.getLogger("vitral")
    level = log.level
    log.setLevel(logging.ERROR)  # an animation is a finding here, not a message
    try:
        return _inspected(images, i)
    finally:
        log.setLevel(level)


def _inspected(images: ImageSet, i: int) -> Seen:
    try:
        suffix, content = images.file(i)
    except UserError as error:
        return Seen("file-unreadable", _reason(error, images.name(i)))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if not content:
        return Seen("file-empty", digest=digest)
    try:
        header = _header(content)
    except Image.UnidentifiedImageError:
        return Seen("file-foreign", _what(content), digest)
    except Exception as error:  # a corrupt header can make Pillow raise anything
        return Seen(_broken(content, error), _reason(error), digest)
    if header.width * header.height > MAX_PIXELS:
        return Seen("file-bomb", f"{header.width}x{header.height}", digest)
    try:
        pixels = decode(content)
    except UserError as error:
        # `decode` itself rejects values without a defined brightness; any other error comes from Pillow.
        refused = error.__cause__ is None and (header.mode in ("I", "F") or header.mode.startswith("I;"))
        return Seen("file-values" if refused else _broken(content, error), _reason(error, name_of(content)), digest)
    return Seen("", "", digest, pixels.shape[:2], tuple(_notes(header, suffix, pixels)), look_of(pixels))


class _Header(NamedTuple):
    format: str
    mode: str
    width: int
    height: int
    turned: bool
    frames: int
    transparent: bool


def _header(content: bytes) -> _Header:
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # The caller checks the size before any pixel is decoded.
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # Reading EXIF that follows the pixels of a PNG would decode them here.
            tagged = image.format != "PNG" or "exif" in image.info
            turned = tagged and image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG", "TIFF") else 1
            transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
            return _Header(image.format or "", image.mode, image.width, image.height, turned, frames, transparent)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _notes(header: _Header, suffix: str, pixels: np.ndarray) -> list[tuple[str, str]]:
    found = []
    known = any(suffix in endings for endings in SUFFIXES.values())
    if known and suffix not in SUFFIXES.get(header.format, ()):
        found.append(("file-suffix", header.format))
    if header.turned:
        found.append(("image-turned", ""))
    if header.frames > 1:
        found.append(("image-frames", f"{header.frames} frames"))
    if header.transparent:
        found.append(("image-transparent", ""))
    elif header.mode not in (*ORDINARY, "P", "1"):
        found.append(("image-mode", header.mode))
    if (pixels == pixels[0, 0]).all():
        found.append(("image-blank", ""))
    return found


def _broken(content: bytes, error: Exception) -> str:
    """The id for a file that cannot be decoded: truncated or corrupt."""
    # Pillow does not report a truncated WebP, whose header contains its length.
    short = content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 > len(content)
    text = str(error.__cause__ or error).lower()
    ends = short or any(word in text for word in ("truncated", "premature", "end of file", "do not hold"))
    return "file-truncated" if ends else "file-corrupt"


def _reason(error: Any, name: str = "") -> str:
    """The first line of an exception, up to 120 characters; of a UserError the first sentence, without `name`."""
    cause = error.__cause__ or error
    text = str(cause)
    if isinstance(cause, UserError):
        text = text.removeprefix(f"{name}: ").split(". ")[0].removesuffix(".")
    lines = text.splitlines()
    return (lines[0] if lines else type(cause).__name__)[:120]


def _what(content: bytes) -> str:
    """The type of a file that is not an image."""
    start = content[:64].lstrip()
    if content[4:8] == b"ftyp":
        return "HEIC or AVIF"
    for begin, what in FOREIGN.items():
        if start[: len(begin)].lower() == begin.lower():
            return what
    if not any(content[:4096]):
        return "nothing but zero bytes"
    try:
        content[:4096].decode("ascii")
        return "text"
    except UnicodeDecodeError:
        return "unknown"
