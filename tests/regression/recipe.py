"""The options of regression."""

from dataclasses import dataclass

from vit.tasks.options import RunOptions


@dataclass(frozen=True)
class Recipe(RunOptions):
    """Train a model that gives an image a number."""

    recipe: str = "regress"
    augment: str = "flip"
    image_size: int | None = 16
    beta: float = 1.0
    """Where the loss goes from squared to absolute."""


RECIPES = {"regress": ("Fit a number to each image of --data FILE.csv with the columns path,value.", Recipe())}
