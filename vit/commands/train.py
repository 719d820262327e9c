"""`vitral train RECIPE [--options]`: train a model of any task."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from vit.errors import UserError, nearest, shown
from vit.processes.signals import listening
from vit.tasks.table import recipe_names, task_of_recipe


def main(arguments: Sequence[str]) -> None:
    recipe = parse(arguments)
    with listening():
        from vit.training.run import train

        train(recipe)


def recipes() -> dict[str, tuple[str, Any]]:
    """name -> (what it is for, the recipe with its defaults), of every task."""
    return {name: task_of_recipe(name).part("recipe").RECIPES[name] for name in recipe_names()}


def parse(arguments: Sequence[str]) -> Any:
    """`RECIPE [--options]`; the recipe is digits if left out."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["digits", *arguments]
    known = recipes()
    if arguments[0] not in (*known, "-h", "--help"):
        meant = nearest(arguments[0], known)
        if Path(arguments[0]).exists():
            meant = f" Data goes behind --data: folder --data {shlex.quote(arguments[0])}."
        raise UserError(f"there is no recipe {arguments[0]!r}.{meant} Recipes: {shown(list(known))}.")
    return tyro.extras.overridable_config_cli(
        known, prog="vitral train", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
    )
