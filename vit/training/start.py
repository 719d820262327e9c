"""`vit.train`: a run from Python, with the option names of the command line."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from vit.errors import UserError, nearest
from vit.tasks.options import RunOptions
from vit.tasks.table import base_of_recipe
from vit.training.run import train as run


def train(recipe: str | RunOptions = "digits", **options: Any) -> dict[str, Any]:
    """Run a recipe, as `vitral train RECIPE --options` does; the test report.

    recipe: a name (digits, folder, finetune, probe, scenes, detect), or a recipe from `RECIPES` of its task. options:
    fields of the recipe, such as data="photos", epochs=3. Raises UserError for a user's mistake.
    """
    base = base_of_recipe(recipe) if isinstance(recipe, str) else recipe
    names = [field.name for field in fields(base) if field.name != "recipe"]
    for name in options:
        if name not in names:
            raise UserError(f"The recipe {base.recipe} has no option {name!r}.{nearest(name, names)}")
    if options.get("data") is not None:
        options["data"] = str(options["data"])
    return run(replace(base, **options))
