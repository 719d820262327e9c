"""Image files and folders named on the command line, and the exit code for what could be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vit.errors import UserError, nearest, shown
from vit.images.decode import IMAGE_SUFFIXES


def find_images(paths: Sequence[str]) -> list[str]:
    """Files as they are, folders as the images below them, sorted. Raises UserError for a path without images."""
    if not paths:
        raise UserError("No images given: name image files, or folders of them.")
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found = sorted(_images_below(path))
            if not found:
                raise UserError(f"{path}: no images in this folder (looked for {shown(IMAGE_SUFFIXES, 20)}).")
            files += found
        elif os.path.exists(path):
            files.append(path)
        else:
            parent = Path(path).parent
            beside = sorted(os.listdir(parent)) if parent.is_dir() else []
            raise UserError(f"{path}: no such file or folder (in {os.getcwd()}).{nearest(Path(path).name, beside)}")
    return files


def exit_code(unreadable: int, images: int) -> int:
    """0 when every image could be read; 1 when some could not, which is printed on stderr; 2 when none could."""
    if unreadable:
        print(f"{unreadable} of {images} images could not be read.", file=sys.stderr)
    return 0 if not unreadable else 1 if unreadable < images else 2


def _images_below(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            # macOS leaves files such as ._photo.jpg on other disks; they hold no image.
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield os.path.join(root, name)
