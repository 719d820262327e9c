"""Reading and writing the frames of a video file, with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from vit.errors import UserError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
USUAL_RATE = 25.0
"""Frames a second where a file does not tell."""


class Frame(NamedTuple):
    image: np.ndarray
    """uint8 [H, W, 3], RGB, upright."""
    index: int
    """Position in the file, from 0."""
    seconds: float
    """Since the start."""


def is_video(path: str | Path) -> bool:
    """Whether the suffix, in any case, is a video's."""
    return str(path).lower().endswith(SUFFIXES)


def frame_rate(path: str | Path) -> float:
    """Frames a second. Raises UserError, as `frames` does, for a file without a single frame."""
    capture = _open(path)
    rate, readable = capture.get(_cv2().CAP_PROP_FPS), capture.grab()
    capture.release()
    if not readable:
        raise UserError(f"{path}: OpenCV reads no frame of it. Is the file complete? Converting it to .mp4 may help.")
    return rate if 0 < rate < 1000 else USUAL_RATE


def frames(path: str | Path, every: int = 1) -> Iterator[Frame]:
    """Every Nth frame (N = `every`), starting with the first; one frame is in memory at a time. Raises UserError for a
    file that OpenCV cannot open."""
    cv2, rate, index = _cv2(), frame_rate(path), 0
    capture = _open(path)
    try:
        while capture.grab():  # this decodes nothing: skipped frames are cheap
            if index % every == 0:
                whole, image = capture.retrieve()
                if not whole:
                    return
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), index, index / rate)
            index += 1
    finally:
        capture.release()


class VideoWriter:
    """Writes RGB frames uint8 [H, W, 3] of one size as MPEG-4. A context manager; the file is complete when it ends.

    Raises UserError where the file cannot be written.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, image: np.ndarray) -> None:
        cv2 = _cv2()
        # The codec takes even sides only.
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, (image.shape[1], image.shape[0]))
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: a video cannot be written there. Choose another --out.")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def _open(path: str | Path) -> Any:
    capture = _cv2().VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(
            f"{path}: OpenCV cannot open it as a video. Is the file complete? Converting it to .mp4 may help."
        )
    return capture


def _cv2() -> Any:
    # We report what is wrong with a file; OpenCV need not.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    return cv2
