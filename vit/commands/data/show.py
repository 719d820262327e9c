"""`vitral data show DATA`: a picture of what a model sees in training.

The batches are those that `vitral train` would feed, made by the same lines: augmented, mixed, in the order of the
epoch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vit.commands import train
from vit.commands.cli.options import Positional, is_option, options_of, parse
from vit.errors import UserError
from vit.images.draw import Mark, color_of, draw_boxes, font_of
from vit.tasks.classification.recipe import Recipe

if TYPE_CHECKING:
    from vit.tasks.detection.recipe import DetectionRecipe

CELL, GAP, LINE = 320, 8, 20
"""In pixels: the square that each image has, what lies between two, and the height of the text below."""
SHARE = 0.05
"""A class with less than this share of a mixed image is not named."""


def main(arguments: Sequence[str]) -> None:
    own, rest = divided(arguments)
    parse(Show, own, "vitral data show").run(rest)


@dataclass(frozen=True)
class Show:
    """Draw the first training images of an epoch as the model will see them.

    Every other option is one of the recipe: --augment NAME, --image-size 224, --seed 1, ...
    `vitral train RECIPE --help` lists them."""

    data: Annotated[str, Positional("DATA")]
    """A data set, as `vitral train` takes it with --data."""
    recipe: str | None = None
    """Recipe of `vitral train`. Default: digits, scenes, detect or folder, by what DATA is."""
    out: str = "grid.png"
    """File to write; the ending says in which format."""
    images: int = 24
    """How many images to draw."""
    epoch: int = 1
    """Epoch to draw from, counted from 1. The last epochs of a detector have no mosaic."""

    def __post_init__(self) -> None:
        for name in ("images", "epoch"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}.")

    def run(self, rest: Sequence[str] = ()) -> None:
        """rest: options of `vitral train`."""
        name = self.recipe or recipe_for(self.data)
        recipe = train.parse([name, "--data", self.data, *rest], "vitral data show")
        picture, told = drawn(recipe, self)
        place = Path(self.out)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be written ({error}). Choose another --out, such as grid.png.") from None
        train.tell(f"{told}: {place}")


class Seen(NamedTuple):
    """One image as the model sees it."""

    pixels: np.ndarray
    """uint8 [h, w, 3]"""
    text: str
    marks: list[Mark]


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those for `vitral train`: every option that only a recipe has, with its value."""
    ours = {name: option for name, option in options_of(Show).items() if option.metavar is None}
    theirs = {
        name: option for _, recipe in train.recipes().values() for name, option in options_of(type(recipe)).items()
    }
    own: list[str] = []
    rest: list[str] = []
    words = deque(arguments)
    while words:
        word = words.popleft()
        field = word.partition("=")[0].removeprefix("--").replace("-", "_")
        ends = not is_option(word) or word in ("-h", "--help")
        into = own if ends or field in ours else rest
        into.append(word)
        option = ours.get(field) or theirs.get(field.removeprefix("no_"))
        if not (ends or "=" in word or (option is not None and option.flag)) and words and not is_option(words[0]):
            into.append(words.popleft())
    return own, rest


def recipe_for(data: str) -> str:
    """The recipe that is for such data."""
    from vit.data.open_any import has_boxes

    return data if data in ("digits", "scenes") else "detect" if has_boxes(data) else "folder"


def drawn(recipe: Recipe | DetectionRecipe, options: Show) -> tuple[Image.Image, str]:
    """The grid, and what it shows."""
    if isinstance(recipe, Recipe):
        settled, seen, epochs = classification(recipe, options.epoch)
    else:
        settled, seen, epochs = detection(recipe, options.epoch)
    if options.epoch > epochs:
        raise UserError(f"--epoch {options.epoch}: the run has {epochs}. Add --epochs to make it longer.")
    cells = [cell(image) for image in islice(seen, options.images)]
    if not cells:
        raise UserError(f"{options.data}: None of the training images can be read.")
    told = f"{len(cells)} training images of epoch {options.epoch}, augmentation {settled.augment}"
    return grid(cells), told


def classification(recipe: Recipe, epoch: int) -> tuple[Any, Iterator[Seen], int]:
    """The settled recipe, the images of an epoch, and how many epochs there are."""
    from vit.data import open_data, survey
    from vit.tasks.classification import build
    from vit.tasks.classification.settle import Facts, settle
    from vit.training.parts import build_pipeline, feed

    assert recipe.data is not None
    data = open_data(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))
    settled, chosen = settle(recipe, facts)
    _, preprocess, _ = build.build_model(settled, data.classes, facts)
    train.tell(*chosen)
    pipeline, notes = build_pipeline(settled, facts, preprocess)
    train.tell(*notes)
    steps = len(feed(settled, data, pipeline, preprocess)) // settled.epochs
    batches = feed(settled, data, pipeline, preprocess, start=(epoch - 1) * steps)
    mixed = settled.mixup > 0 or settled.cutmix > 0

    def seen() -> Iterator[Seen]:
        for batch in islice(batches, steps):
            targets = batch.targets.numpy()
            for pixels, target in zip(preprocess.denormalise(batch.images), targets, strict=True):
                yield Seen(pixels, label(target, data.classes, data.multilabel and not mixed), [])

    return settled, seen(), settled.epochs


def label(target: np.ndarray, classes: Sequence[str], multilabel: bool) -> str:
    """A target, a number or one a class, in words."""
    if target.ndim == 0:
        return classes[int(target)]
    order = [int(k) for k in np.argsort(-target)]
    shares = [(float(target[k]), classes[k]) for k in order if target[k] >= SHARE]
    if multilabel or (len(shares) == 1 and shares[0][0] > 1 - SHARE):
        return ", ".join(name for _, name in shares) or "none"
    return ", ".join(f"{name} {share:.2f}" for share, name in shares)


def detection(recipe: DetectionRecipe, epoch: int) -> tuple[Any, Iterator[Seen], int]:
    from vit.data import survey
    from vit.data.open_detection import open_detection
    from vit.detector.boxes import to_xyxy
    from vit.tasks.classification.settle import Facts
    from vit.tasks.detection import build as detection_build
    from vit.tasks.detection.recipe import settle_detection
    from vit.training import detector_parts as train_detector_parts

    assert recipe.data is not None
    data = open_detection(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))
    begun = detection_build.begin_detector(recipe)
    settled, chosen = settle_detection(
        recipe, facts, begun.config.divisor, begun.preprocess if begun.knows_boxes else None
    )
    train.tell(*chosen)
    preprocess = detection_build.detection_preprocess(settled, facts, begun)
    pipeline, divisor = train_detector_parts.build_pipeline(settled, preprocess), begun.config.divisor
    steps = len(train_detector_parts.feed(settled, data, pipeline, preprocess, divisor)) // settled.epochs
    batches = train_detector_parts.feed(settled, data, pipeline, preprocess, divisor, start=(epoch - 1) * steps)

    def seen() -> Iterator[Seen]:
        for batch in islice(batches, steps):
            for pixels, target in zip(preprocess.denormalise(batch.images), batch.targets, strict=True):
                height, width = pixels.shape[:2]
                boxes = to_xyxy(target["boxes"]).numpy() * [width, height, width, height]
                rows = zip(boxes.tolist(), target["labels"].tolist(), target["crowd"].tolist(), strict=True)
                marks = [Mark(box, data.classes[k] + " (crowd)" * crowd, color_of(k), crowd) for box, k, crowd in rows]
                yield Seen(pixels, f"{len(marks)} box{'es' * (len(marks) != 1)}", marks)

    return settled, seen(), settled.epochs


def cell(image: Seen) -> Image.Image:
    """An image with its boxes, scaled to CELL, and its text below."""
    pixels = draw_boxes(image.pixels, image.marks, text=1 / 26) if image.marks else image.pixels
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    resample = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    picture = Image.fromarray(pixels).resize((max(1, round(width * scale)), max(1, round(height * scale))), resample)
    whole = Image.new("RGB", (CELL, CELL + LINE), "white")
    whole.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    draw, font, text = ImageDraw.Draw(whole), font_of(LINE - 5), image.text
    while draw.textlength(text, font) > CELL and len(text) > 1:
        text = text[:-2] + "…"
    draw.text(((CELL - draw.textlength(text, font)) / 2, CELL + 1), text, "black", font)
    return whole


def grid(cells: Sequence[Image.Image]) -> Image.Image:
    """Somewhat wider than high."""
    columns = min(len(cells), math.ceil(math.sqrt(1.5 * len(cells))))
    width, height = cells[0].width + GAP, cells[0].height + GAP
    page = Image.new("RGB", (columns * width + GAP, -(-len(cells) // columns) * height + GAP), "white")
    for k, picture in enumerate(cells):
        page.paste(picture, (GAP + k % columns * width, GAP + k // columns * height))
    return page
