"""The output folder of a command, written completely or not at all, and its images."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from vit.data.sets.imageset import FileSet, ImageSet
from vit.errors import UserError

Images = Literal["copy", "hardlink", "symlink"]
"""How image files get into a new folder. Images that are not separate files are always written."""


@contextmanager
def new_folder(out: str, source: str) -> Iterator[str]:
    """A temporary folder beside `out`: renamed to `out` on success, removed on failure.

    Raises UserError if `out` is not empty, or is within the source.
    """
    out, source = os.path.abspath(os.path.expanduser(out)), os.path.realpath(os.path.expanduser(source))
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"{out}: exists already. Give a new folder; what is there is never written over.")
    if os.path.isdir(source) and os.path.commonpath([os.path.realpath(out), source]) == source:
        raise UserError(f"{out}: lies within {source}, which stays as it is. Give a folder elsewhere.")
    temporary = f"{out}.partial-{os.getpid()}"
    os.makedirs(temporary)
    try:
        yield temporary
        if os.path.isdir(out):
            os.rmdir(out)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class FileNames:
    """File names for the images of one split: their own if they have one, with unique stems.

    Folders common to all images are left out.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._used: set[str] = set()
        self._common = ""
        if isinstance(images, FileSet):
            folders = [os.path.dirname(os.fsdecode(key)) for key in images.keys()]  # noqa: SIM118
            self._common = os.path.commonpath(folders) if folders and _inside(folders) else ""

    def of(self, i: int) -> str:
        """The name of image i, with "/" as separator. Names that differ only in the suffix get different stems."""
        name = os.fsdecode(self._images.key(i))
        if isinstance(self._images, FileSet):
            name = os.path.relpath(name, self._common) if self._common else name
            name = name.replace(os.sep, "/") if _inside([name]) else os.path.basename(name)
            stem, suffix = os.path.splitext(name)
        else:
            stem, suffix = os.path.splitext(re.split(r"[/:]", name)[-1])[0] or f"{i:06d}", self._images.file(i)[0]
        stem, k = re.sub(r"[\x00-\x1f]", "_", stem), 2
        # Not every file system is case-sensitive.
        unique = stem
        while unique.lower() in self._used:
            unique, k = f"{stem}_{k}", k + 1
        self._used.add(unique.lower())
        return unique + suffix


def put_image(images: Any, i: int, path: str, how: Images) -> None:
    """Write, copy or link image i to `path`. The source file is only read."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not isinstance(images, FileSet):
        with open(path, "wb") as file:
            file.write(images.file(i)[1])
        return
    source = os.path.abspath(images.name(i))
    try:
        if how == "symlink":
            os.symlink(source, path)
        elif how == "hardlink":
            os.link(os.path.realpath(source), path)
        else:
            shutil.copyfile(source, path)
    except OSError as error:
        advice = " Use --images copy." if how != "copy" else ""
        raise UserError(f"{source}: cannot be put into {path} ({error.strerror}).{advice}") from None


def _inside(names: list[str]) -> bool:
    """Whether relative names stay within their root."""
    return not any(os.path.isabs(name) or ".." in name.split("/") for name in names)
