"""The table of tasks, one row each. No other module depends on which task it is.

A task is a package with these modules and functions:

recipe    RECIPES {name: (help, Recipe)}; Recipe is a frozen dataclass that extends `RunOptions`
settle    settle(recipe, facts, start) -> (recipe without open fields, lines for the user); TRIAL_BATCH and
          largest(recipe, start) for --batch-size auto
feed      EXPECTED, what --data may be; open_data(recipe), reopen(record, source, format=) -> data;
          evaluation_batch(device); Feed(run, built) with train(step), evaluation(images, shared=, strict=),
          seen(batch), once, flip, notes
build     begin(recipe) -> what the weights say before there is a model; build(recipe, data, facts, start) -> Built;
          build_task(recipe, built, data) -> Task; by_muon(name, parameter); checkpoint_config(task, preprocess, record,
          flip) -> config.json; prepare(run, parts, feed, folder), called once before the loop
evaluate  evaluate(checkpoint, data, options, calibrated=) -> Evaluation; calibrate(checkpoint, data, options) ->
          entries of config.json that the validation split decides
report    write_report(folder, evaluation) -> files; print_report(result)
predict   OPTIONS, those of `vit.load` that it takes; load(checkpoint, device=, **options) -> a predictor

The row's name is the "task" in a checkpoint's config.json.
A module is imported on first use, so that a classifier never loads detection.
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
        """The module of that name, imported on first use."""
        return import_module(f"{self.package}.{name}")


TASKS: dict[str, Row] = {}


def register(row: Row) -> None:
    """Add a task. Raises ValueError if its name or one of its recipes is taken."""
    for other in TASKS.values():
        taken = {other.name, *other.recipes} & {row.name, *row.recipes}
        if other != row and taken:
            raise ValueError(f"The task {other.name} already has {', '.join(sorted(taken))}.")
    TASKS[row.name] = row


register(Row("classification", "vit.tasks.classification", ("digits", "folder", "finetune", "probe")))
register(Row("detection", "vit.tasks.detection", ("scenes", "detect")))


def recipe_names() -> list[str]:
    return [name for row in TASKS.values() for name in row.recipes]


def task_of_recipe(name: str) -> Row:
    """The task of a recipe. Raises UserError, with the nearest name, for an unknown recipe."""
    for row in TASKS.values():
        if name in row.recipes:
            return row
    names = recipe_names()
    raise UserError(f"There is no recipe {name!r}.{nearest(name, names)} Recipes: {shown(names)}.")


def base_of_recipe(name: str) -> Any:
    """The recipe of that name, as its task defines it."""
    return task_of_recipe(name).part("recipe").RECIPES[name][1]


def task_of_config(config: Mapping[str, Any]) -> Row:
    """The task of a checkpoint, from its config.json. Raises UserError for an unknown task."""
    name = config.get("task")
    if name not in TASKS:
        raise UserError(f"The checkpoint has the task {name!r}; this version of vitral supports {shown(list(TASKS))}.")
    return TASKS[name]
