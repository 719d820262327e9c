"""A run of any task, from its recipe to its report: data -> model -> fit -> evaluate the best checkpoint.

`fit` in `vit.training.engine` is the loop; it minimizes the task's `losses`.
"""

from __future__ import annotations

import math
import shlex
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from vit.data.check.quick import advice
from vit.errors import UserError, nearest
from vit.model.cost import count_parameters, measure
from vit.predict.predictor import pick_device
from vit.processes.signals import listening
from vit.processes.world import join, leave
from vit.runs.checkpoint import find_checkpoint, set_config
from vit.runs.folder import bad_files_listed, open_run, write_recipe
from vit.tasks.evaluation_options import EvaluationOptions
from vit.tasks.facts import facts_of
from vit.tasks.options import RunOptions
from vit.tasks.run import Run
from vit.tasks.table import Row, base_of_recipe, task_of_recipe
from vit.training.budget import affordable, batch_that_fits
from vit.training.engine import fit, train_step
from vit.training.log import RunLog, Silent, write_curves
from vit.training.parts import Assembly, assemble, average
from vit.training.safety import Safety
from vit.training.saving import Saver
from vit.training.spread import spread
from vit.version import version


def train(recipe: str | RunOptions = "digits", **options: Any) -> dict[str, Any]:
    """Run a recipe, as `vitral train RECIPE --options` does; the test report, as `vitral eval --json` gives it.

    recipe: a name (digits, folder, finetune, probe, scenes, detect), or a recipe of a task's `RECIPES`. options: fields
    of the recipe, such as data="photos", epochs=3. Raises UserError for a user's mistake.
    """
    settings = with_options(base_of_recipe(recipe) if isinstance(recipe, str) else recipe, options)
    row = task_of_recipe(settings.recipe)
    with listening():
        run = prepare(row, settings)
        if run.recipe.dry_run:
            return dry_run(assemble(row, run))
        folder = train_in_folder(row, run)
        leave()
        return report(row, run, folder) if run.world.main else {}


def with_options(recipe: Any, options: dict[str, Any]) -> Any:
    """The recipe with these fields. Raises UserError for a name that is no option."""
    names = [field.name for field in fields(recipe) if field.name != "recipe"]
    for name in options:
        if name not in names:
            raise UserError(f"The recipe {recipe.recipe} has no option {name!r}.{nearest(name, names)}")
    paths = {name: str(value) for name, value in options.items() if isinstance(value, Path)}
    return replace(recipe, **options | paths)


def prepare(row: Row, recipe: Any, *, quiet: bool = False) -> Run:
    """Open the data, join the processes and settle the recipe. quiet: print no notes on the data and the choices."""
    feed = row.part("feed")
    # Open the data first, to report a misspelled path before a model is built.
    if recipe.data is None:
        raise UserError(f"No training data. Add {feed.EXPECTED}.")
    world = join(recipe.device, sharded=recipe.parallel == "fsdp")
    with world.main_first():
        data = feed.open_data(recipe)
    facts, start = facts_of(data), row.part("build").begin(recipe)
    run = Run(recipe, data, facts, pick_device(recipe.device), world, start)
    if recipe.batch_size == "auto":
        recipe = replace(recipe, batch_size=batch_that_fits(row, run))
    run.recipe, notes = row.part("settle").settle(recipe, facts, start)
    if not quiet:
        tell(*data.notes, *advice(data), *notes)
    world.refuses(dry_run=recipe.dry_run, minutes=recipe.minutes)
    if recipe.minutes is not None:
        run.recipe = affordable(row, run, recipe)
    return run


def train_in_folder(row: Row, run: Run) -> Path:
    """Fit the model in the recipe's run folder, from its last checkpoint if there is one. Raises Stopped if a signal
    ended the run, after saving everything, and UserError for a user's mistake."""
    recipe, world = run.recipe, run.world
    folder, resume = open_run(recipe, world)
    progress = resume["progress"] if resume else {"step": 0, "evaluated": 0}
    run.step, run.resumed, run.caches = progress["step"], resume is not None, True
    assembly = assemble(row, run)
    parts, build = assembly.parts, row.part("build")
    tell(*assembly.notes)
    config = build.checkpoint_config(parts.task, assembly.built.preprocess, run.data.record, assembly.feed.flip)
    world.on_main(lambda: write_recipe(folder, replace(recipe, resume=False)))
    build.prepare(run, parts, assembly.feed, folder)
    average(parts, recipe)
    if recipe.compile:
        assembly.built.model.compile()
    log: RunLog = Silent(parts.loop.steps)
    if world.main:
        log = RunLog(folder, steps=parts.loop.steps, start=progress["step"], judged=progress["evaluated"])
    files = bad_files_listed(folder, parts.batches) if world.main else nullcontext()
    save = Saver(folder, recipe, parts, {"vitral": version(), **config}, world)
    with listening() as stop, log, files, save.writing():
        stop.alone = world.size == 1
        amp = parts.loop.amp
        precision = "" if amp is None else f", computed in {str(amp).removeprefix('torch.')}"
        log.say(f"{assembly.built.name}: {count_parameters(assembly.built.model)}{precision} -> {folder}")
        safety = Safety(
            stop,
            world,
            save.due,
            lambda: save.restore(log.say),
            lambda task: spread(task, world),
            folder,
            f"vitral replay {shlex.quote(str(folder))}",
        )
        fit(parts, log, save, resume=resume, safety=safety)
        stop.check()
    return folder


def report(row: Row, run: Run, folder: Path) -> dict[str, Any]:
    """Evaluate the best checkpoint on the test split (else on validation), and write the report into the run folder.

    What validation determines (a classifier's temperature, a detector's thresholds) is first stored in the checkpoint,
    so that prediction uses it.
    """
    best, splits, judge = find_checkpoint(folder), run.data.splits(), row.part("evaluate")
    options = EvaluationOptions(
        split=next(name for name in ("test", "val", "train") if name in splits),
        batch_size=row.part("feed").evaluation_batch(run.device),
        workers=run.recipe.workers,
        device=run.recipe.device,
    )
    if "val" in splits:
        set_config(best, **judge.calibrate(best, run.data, options))
    evaluation = judge.evaluate(best, run.data, options, calibrated=True)
    row.part("report").write_report(folder, evaluation)
    write_curves(folder)
    row.part("report").print_report(evaluation.result)
    place = shlex.quote(str(folder))
    tell(f"Everything is in {place}. Next: vitral eval {place}, vitral predict {place} IMAGE.")
    return evaluation.result


def dry_run(assembly: Assembly) -> dict[str, Any]:
    """Time a few forward and backward passes of one batch; write nothing."""
    parts, recipe = assembly.parts, assembly.feed.run.recipe
    batch: Any = next(iter(parts.batches))
    steps = parts.loop.steps
    if assembly.feed.once:  # the encoder processes each image once
        steps = math.ceil(sum(len(split) for split in assembly.feed.run.data.splits().values()) / recipe.batch_size)
    cost = measure(
        parts.task.model,
        tuple(batch.images.shape[1:]),
        lambda: train_step(parts.task, batch, parts.optimizers, parts.loop),
    )
    tell(*assembly.notes, *cost.lines(steps), "Dry run: nothing was written.")
    return asdict(cost)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
