"""`vitral predict`: predict labels or boxes of images, folders of images and video frames."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError
from vit.tasks.detection.scan.options import Scan

if TYPE_CHECKING:
    from vit.images.video import Frame


def main(arguments: Sequence[str]) -> int:
    return parse(Predict, arguments, "vitral predict").run()


@dataclass(frozen=True)
class Predict:
    """Label images, or find objects in them, with a trained checkpoint.

    The exit code is 1 if some images cannot be read, and 2 if none can or the command is wrong."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder (its best checkpoint), or a checkpoint folder."""
    images: Annotated[tuple[str, ...], Positional("IMAGE|FOLDER|VIDEO...")]
    """Images, videos, and folders, which are searched with everything below them."""
    top: int | None = None
    """How many classes or boxes to show for each image. Default: 5 classes, or 300 boxes."""
    json: bool = False
    """Print a JSON list with one object per line instead of text."""
    out: Path | None = None
    """Also draw the boxes: write a picture of each image, and a video of each video, into this folder. Default: nothing
    is drawn."""
    threshold: tuple[str, ...] = ()
    """Lowest score of a box, or of a label of a multi-label checkpoint. For a detector also CLASS=NUMBER, which may be
    repeated, or per-class: the best threshold of each class on validation. Default: 0.5, or the detector's best on
    validation."""
    tile: int | None = None
    """Side, in pixels of the image, of tiles that a detector also looks at. Default: no tiles."""
    overlap: float | None = None
    """Fraction of a tile's side that it shares with the next tile. Default: 0.2."""
    tta: bool = False
    """Test-time augmentation of a detector: several scales, and mirror images if training had them."""
    nms: float | None = None
    """Drop a box that a better box of its class overlaps by more than this IoU. Default: no box is dropped."""
    every: int = 1
    """Use every Nth frame of a video."""
    batch_size: int = 32
    """Images per batch."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:1 or mps."""

    def run(self) -> int:
        if min(self.batch_size, self.every, 1 if self.top is None else self.top) < 1:
            raise UserError("--top, --every and --batch-size must be at least 1.")
        from vit.predict.files import exit_code, find_images
        from vit.predict.gallery import Gallery, picture_files

        # Before torch, so that a misspelled path is reported at once.
        files = find_images(self.images)
        places = {} if self.out is None else picture_files(files, self.images, self.out)
        rates = video_rates(files)
        predictor = self.load()

        from vit.predict.predictor import Unreadable

        items: deque[Item] = deque()

        def sources() -> Iterator[Any]:
            for item in self.items(files):
                items.append(item)
                yield item.path if item.frame is None else item.frame.image

        unreadable = count = 0
        with Gallery(places, {file: rate / self.every for file, rate in rates.items()}) as gallery:
            for result in predictor.stream(sources(), batch_size=self.batch_size):
                item = items.popleft()
                if isinstance(result, Unreadable):
                    unreadable += 1
                    print(f"Error: {result.reason}", file=sys.stderr)
                self.show(item, result, first=count == 0)
                if self.out is not None and not isinstance(result, Unreadable):
                    gallery.add(item.path, result.drawn(), video=item.frame is not None)
                count += 1
        if self.json:
            print("\n]")
        return exit_code(unreadable, count)

    def load(self) -> Any:
        """The predictor of the checkpoint, with the options of its task."""
        from vit.runs.checkpoint import find_checkpoint, load_config
        from vit.tasks.checkpoints import load
        from vit.tasks.table import task_of_config

        config = load_config(find_checkpoint(self.checkpoint))
        takes = task_of_config(config).part("predict").OPTIONS
        looks = {"tile": self.tile, "overlap": self.overlap, "tta": self.tta or None, "nms": self.nms}
        given = {name: value for name, value in looks.items() if value is not None}
        refused = ["out"] if self.out is not None and "draw" not in takes else []
        refused += list(given) if "scan" not in takes else []
        if refused:
            raise UserError(f"--{refused[0]} is for detectors; {self.checkpoint} is none.")
        return load(
            self.checkpoint,
            self.device,
            threshold=parse_threshold(self.threshold, config["classes"]),
            limit=self.top if "limit" in takes else None,
            scan=Scan(**given) if given else None,
        )

    def items(self, files: list[str]) -> Iterator[Item]:
        from vit.images.video import frames, is_video

        for file in files:
            if is_video(file):
                yield from (Item(file, frame) for frame in frames(file, self.every))
            else:
                yield Item(file, None)

    def show(self, item: Item, result: Any, *, first: bool) -> None:
        from vit.predict.predictor import Unreadable

        if self.json:
            values = result.to_dict() if isinstance(result, Unreadable) else result.to_dict(self.top)
            print("[" if first else ",\n", json.dumps(item.entry() | values, ensure_ascii=False), sep="", end="")
        elif not isinstance(result, Unreadable):
            print(f"{item}: {result.text(self.top)}")


class Item(NamedTuple):
    """An image file, or a frame of a video file."""

    path: str
    frame: Frame | None

    def entry(self) -> dict[str, Any]:
        place = {} if self.frame is None else {"frame": self.frame.index, "seconds": round(self.frame.seconds, 3)}
        return {"source": self.path, **place}

    def __str__(self) -> str:
        return self.path if self.frame is None else f"{self.path} frame {self.frame.index} ({self.frame.seconds:.2f} s)"


def video_rates(files: list[str]) -> dict[str, float]:
    """Frames per second of the videos among the files. Raises UserError for a video that cannot be read."""
    from vit.images.video import frame_rate, is_video

    return {file: frame_rate(file) for file in files if is_video(file)}


def parse_threshold(given: tuple[str, ...], classes: list[str]) -> Any:
    """("0.3", "cat=.5") -> {class: number} for all classes, ("cat=.5",) -> {"cat": .5}, ("0.3",) -> 0.3, () -> None.

    Raises UserError for anything else.
    """
    if given == ("per-class",):
        return "per-class"
    single: list[float] = []
    by_class: dict[str, float] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UserError(
                f"--threshold {text!r}: Expected a number such as .3, CLASS=NUMBER, or per-class alone."
            ) from None
        if equals:
            by_class[name] = value
        else:
            single.append(value)
    if len(single) > 1:
        raise UserError(f"--threshold has two numbers for all classes, {single[0]:g} and {single[1]:g}. Leave one.")
    if by_class:
        return {**dict.fromkeys(classes if single else (), *single), **by_class}
    return single[0] if single else None
