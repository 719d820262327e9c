"""The images and videos that a prediction writes into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from vit.errors import UserError
from vit.images.video import VideoWriter, is_video


class Gallery:
    """A context manager; videos are complete when it ends.

    Args:
        places: input file -> output file.
        rates: video file -> frames a second of its copy.
    """

    def __init__(self, places: Mapping[str, Path], rates: Mapping[str, float]) -> None:
        self.places, self.rates = places, rates
        self._current: tuple[str, VideoWriter] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def add(self, file: str, picture: np.ndarray, *, video: bool) -> None:
        """Write `picture`, uint8 [H, W, 3]: that of an image file, or the next frame of a video. Raises UserError where
        it cannot be written."""
        place = self.places[file]
        if not video:
            return _write(picture, place)
        if self._current is None or self._current[0] != file:
            self._open.close()
            self._current = file, self._open.enter_context(VideoWriter(place, self.rates[file]))
        self._current[1].write(picture)


def picture_files(files: Sequence[str], paths: Sequence[str], out: Path) -> dict[str, Path]:
    """The output file in `out` of each input file, `find_images(paths)`: at the same relative path as in its folder, by
    its name alone if the file itself was named, and numbered where two would have the same name.

    Raises UserError where an output would overwrite an input.
    """
    folders = [Path(path) for path in paths if os.path.isdir(path)]
    originals = {os.path.realpath(file) for file in files}
    places: dict[str, Path] = {}
    taken: set[Path] = set()
    for file in dict.fromkeys(files):
        path = Path(file)
        folder = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        suffix = ".mp4" if is_video(file) else ".jpg" if path.suffix.lower() in (".jpg", ".jpeg", ".jfif") else ".png"
        preferred = free = (out / path.relative_to(folder)).with_suffix(suffix)
        number = 1
        while free in taken:
            number += 1
            free = preferred.with_stem(f"{preferred.stem}-{number}")
        if os.path.realpath(free) in originals:
            raise UserError(f"--out {out}: {free} is one of the images and would be lost. Choose another folder.")
        taken.add(free)
        places[file] = free
    return places


def _write(picture: np.ndarray, place: Path) -> None:
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if place.suffix == ".jpg" else {}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place, **options)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}). Choose another --out.") from None
