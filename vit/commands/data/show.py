"""`vitral data show DATA`: draw what a model sees in training.

The same code as in `vitral train` makes the batches: augmented, mixed, in the order of the epoch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image, ImageDraw

from vit.commands import train
from vit.commands.cli.fields import Positional, options_of
from vit.commands.cli.options import is_option, parse
from vit.errors import UserError
from vit.images.draw import draw_boxes, font_of

if TYPE_CHECKING:
    from vit.tasks.run import Seen

CELL, GAP, LINE = 320, 8, 20
"""In pixels: side of each image's square, the gap between two, and the height of the text below."""


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
        picture, caption = drawn(recipe, self)
        place = Path(self.out)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be written ({error}). Choose another --out, such as grid.png.") from None
        print(f"{caption}: {place}")


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those for `vitral train`: every option that only a recipe has, with its value."""
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
    """The recipe for such data."""
    from vit.data.open import has_boxes

    return data if data in ("digits", "scenes") else "detect" if has_boxes(data) else "folder"


def drawn(recipe: Any, options: Show) -> tuple[Image.Image, str]:
    """The grid, and its caption."""
    settled, seen = training_images(recipe, options.epoch)
    if options.epoch > settled.epochs:
        raise UserError(f"--epoch {options.epoch}: the run has {settled.epochs}. Add --epochs to make it longer.")
    cells = [cell(image) for image in islice(seen, options.images)]
    if not cells:
        raise UserError(f"{options.data}: None of the training images can be read.")
    caption = f"{len(cells)} training images of epoch {options.epoch}, augmentation {settled.augment}"
    return grid(cells), caption


def training_images(recipe: Any, epoch: int) -> tuple[Any, Iterator[Seen]]:
    """The settled recipe, and the images of an epoch."""
    from vit.tasks.table import task_of_recipe
    from vit.training.run import prepare

    row = task_of_recipe(recipe.recipe)
    run = prepare(row, recipe)
    feed = row.part("feed").Feed(run, row.part("build").build(run.recipe, run.data, run.facts, run.start))
    for note in feed.notes:
        print(note)
    steps = len(feed.train(0)) // run.recipe.epochs
    batches = islice(feed.train((epoch - 1) * steps), steps)
    return run.recipe, (image for batch in batches for image in feed.seen(batch))


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
    """Arrange the cells in a grid about 1.5 times as wide as high."""
    columns = min(len(cells), math.ceil(math.sqrt(1.5 * len(cells))))
    width, height = cells[0].width + GAP, cells[0].height + GAP
    page = Image.new("RGB", (columns * width + GAP, -(-len(cells) // columns) * height + GAP), "white")
    for k, picture in enumerate(cells):
        page.paste(picture, (GAP + k % columns * width, GAP + k // columns * height))
    return page
