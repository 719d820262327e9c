"""The tasks there are: one row each. Nothing else in the house asks which task it is.

A task is a folder of modules with the same names in each. This is what the rest of the house calls:

recipe    RECIPES {name: (help, Recipe)}, where Recipe is a frozen dataclass that extends `RunOptions`
settle    settle(recipe, facts, start) -> (recipe without open fields, lines for the user); TRIAL_BATCH; largest(recipe)
feed      EXPECTED; open_data(recipe), reopen(record, source, format) -> data; Feed(run, built): batches of a run
build     begin(recipe) -> what weights say before there is a model; build(recipe, data, facts, start) -> Built;
          build_task(recipe, built, data) -> Task; by_muon(name, parameter); checkpoint_config(...); prepare(run, parts)
evaluate  evaluate(checkpoint, data, options) -> Evaluation; calibrate(checkpoint, data, options) -> config entries
report    write_report(folder, evaluation); print_report(result)
predict   load(checkpoint, device, **options) -> a predictor

A module is imported when it is first needed, so that a classifier never loads detection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from vit.errors import UserError, nearest, shown

Part = Literal["recipe", "settle", "feed", "build", "evaluate", "report", "predict"]


@dataclass(frozen=True)
class Row:
    """One task: its name in a checkpoint's config.json, the package of its modules, and the names of its recipes."""

    name: str
    package: str
    recipes: tuple[str, ...]

    def part(self, name: Part) -> Any:
        """The module of that name."""
        return import_module(f"{self.package}.{name}")


TASKS: dict[str, Row] = {}


def register(row: Row) -> None:
    """Add a task. Raises ValueError where its name or one of its recipes is taken by another."""
    for other in TASKS.values():
        taken = {other.name, *other.recipes} & {row.name, *row.recipes}
        if other != row and taken:
            raise ValueError(f"the task {other.name} has {', '.join(sorted(taken))} already")
    TASKS[row.name] = row


register(Row("classification", "vit.tasks.classification", ("digits", "folder", "finetune", "probe")))
register(Row("detection", "vit.tasks.detection", ("scenes", "detect")))


def recipe_names() -> list[str]:
    return [name for row in TASKS.values() for name in row.recipes]


def task_of_recipe(name: str) -> Row:
    """The task that a recipe belongs to. Raises UserError with the nearest name where there is none."""
    for row in TASKS.values():
        if name in row.recipes:
            return row
    names = recipe_names()
    raise UserError(f"There is no recipe {name!r}.{nearest(name, names)} Recipes: {shown(names)}.")


def base_of_recipe(name: str) -> Any:
    """The recipe of that name, as its task defines it."""
    return task_of_recipe(name).part("recipe").RECIPES[name][1]


def task_of_config(config: Mapping[str, Any]) -> Row:
    """The task of a checkpoint, by its config.json. Raises UserError where this vitral has no such task."""
    name = config.get("task")
    if name not in TASKS:
        raise UserError(f"The checkpoint is of the task {name!r}; this vitral knows {shown(list(TASKS))}.")
    return TASKS[name]
