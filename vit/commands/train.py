"""`vitral train RECIPE [--options]`: train a model of any task; a recipe is a set of defaults.

vitral train                                             real handwritten digits, minutes on a CPU
vitral train folder --data photos                        from scratch on class folders of your own
vitral train finetune --data photos --weights SRC        from a checkpoint or public weights, with a new head
vitral train probe --data photos --weights SRC           the head only, on features computed once
vitral train scenes                                      detection of digits in composed scenes
vitral train detect --data DIR [--weights SRC]           detection on boxes of your own: COCO, YOLO, VOC, CSV
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit.commands.cli import aliases
from vit.commands.cli.options import parse as parse_options
from vit.errors import UserError, nearest, shown
from vit.processes.signals import listening
from vit.tasks.table import recipe_names, task_of_recipe


def main(arguments: Sequence[str]) -> None:
    recipe = parse(arguments)
    with listening():
        from vit.training.run import train

        train(recipe)


def recipes() -> dict[str, tuple[str, Any]]:
    """name -> (purpose, the recipe with its defaults), for every task."""
    return {name: task_of_recipe(name).part("recipe").RECIPES[name] for name in recipe_names()}


def parse(arguments: Sequence[str], prog: str | None = None) -> Any:
    """Parse `RECIPE [--options]`; the default recipe is digits. --help prints the recipes, or the options of one.

    prog: name of the command in messages; `vitral train RECIPE` if None.
    """
    known = recipes()
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview(known))
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        arguments = ["digits", *arguments]
    name, *options = arguments
    if aliases.ASSIGNMENT.fullmatch(name):  # data=photos: `parse_options` suggests the right form
        name, options = ("detect" if name.endswith((".yaml", ".yml")) else "folder"), list(arguments)
    if name not in known:
        meant = nearest(name, known)
        if Path(name).exists():
            meant = f" Is it the data? vitral train folder --data {shlex.quote(name)}"
        raise UserError(f"There is no recipe {name!r}.{meant}\nRecipes: {shown(list(known))}.")
    about, recipe = known[name]
    return parse_options(
        type(recipe), options, prog or f"vitral train {name}", base=recipe, hidden=("recipe",), about=about
    )


def overview(known: Mapping[str, tuple[str, Any]]) -> str:
    width = max(map(len, known)) + 2
    rows = [f"  {name:<{width}}{about}" for name, (about, _) in known.items()]
    return "\n".join(
        [
            "Usage: vitral train [RECIPE] [options]",
            "",
            "Train an image classifier or an object detector. A recipe is a set of defaults:",
            "",
            *rows,
            "",
            "Without a recipe it is digits. vitral train RECIPE --help lists a recipe's options.",
        ]
    )
