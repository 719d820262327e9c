"""How much fits: --batch-size auto into the memory of a GPU, --minutes into a time. Both are found by trying."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vit.model.cost import pace
from vit.runs.folder import read_recipe, resumed
from vit.tasks.precision import autocast
from vit.tasks.run import Parts, Run
from vit.tasks.table import Row
from vit.training.batch_norm import IMAGES
from vit.training.parts import assemble, average
from vit.training.step import out_of_memory, train_step

SHARE = 0.92
"""Of the memory that a batch may take: fragments, other sizes of images and the display need the rest."""
MOST = 4096
FORWARD = 1 / 2
"""An image that is evaluated takes about this share of the time of one that is trained on: it is decoded as that is,
and goes forward, without the backward pass, which takes twice as long."""
REST = 15.0
"""Seconds for what is not counted by images: reading back the best checkpoint, the report and its pictures."""


def batch_that_fits(row: Row, run: Run) -> int | None:
    """The batch size of --batch-size auto; where nothing can be measured the recipe's default. A run that is resumed
    keeps the one it began with."""
    recipe, images = run.recipe, len(run.data.train)
    usual = type(recipe)().batch_size
    if recipe.resume:
        return read_recipe(resumed(recipe), type(recipe)).batch_size
    settle = row.part("settle")
    trial = replace(recipe, batch_size=min(settle.TRIAL_BATCH, images))
    settled = settle.largest(settle.settle(trial, run.facts, run.start)[0], run.start)
    made = assemble(row, replace(run, recipe=settled))
    if made.feed.once:
        print("--batch-size auto is for what goes through the whole model: the recipe's own size is taken.", flush=True)
        return usual
    if run.device.type != "cuda":
        print(
            "--batch-size auto measures the memory of a GPU. Here is none: the recipe's own size is taken.", flush=True
        )
        return usual
    average(made.parts, settled)
    evaluated = row.part("feed").evaluation_batch(run.device)
    own = largest_batch(made.parts, next(iter(made.parts.batches)), evaluated, max(1, images // run.world.size))
    size = run.world.size * min(run.world.gather(own))
    print(f"batch_size {size}: the largest that fits, with optimizer, average and evaluation.", flush=True)
    return size


def affordable(row: Row, run: Run, asked: Any) -> Any:
    """`asked`, which is `run.recipe` when settled, with no more epochs than end within its minutes: by some steps on
    this machine, or, when a run is resumed, as many as it was begun with."""
    recipe, data = run.recipe, run.data

    def settled(epochs: int) -> Any:
        return row.part("settle").settle(replace(asked, epochs=epochs), run.facts, run.start)[0]

    if asked.resume:
        return settled(read_recipe(resumed(asked), type(asked)).epochs)
    made = assemble(row, run)
    if made.feed.once:
        print("--minutes changes nothing: the images go through the encoder only once, as it is.", flush=True)
        return recipe
    parts = made.parts
    endless = itertools.chain.from_iterable(itertools.repeat(parts.batches))

    def step() -> object:
        return train_step(parts.task, next(endless), parts.optimizers, parts.loop)

    seconds = pace(step, run.device, at_least=5.0, at_most=50)
    val, test = (0 if images is None else len(images) for images in (data.val, data.test))
    plain = min(IMAGES, len(data.train)) if parts.plain is not None else 0
    epochs = fitting_epochs(
        asked.minutes,
        recipe.epochs,
        settled,
        step_seconds=seconds,
        steps_per_epoch=parts.loop.steps_per_epoch,
        evaluated=val + plain,
        reported=val + test,
    )
    print(
        f"{epochs} of {recipe.epochs} epochs fit into {asked.minutes:g} minutes at {seconds * 1e3:.0f} ms a step.",
        flush=True,
    )
    return settled(epochs)


def fitting_epochs(
    minutes: float,
    most: int,
    settled: Callable[[int], Any],
    *,
    step_seconds: float,
    steps_per_epoch: int,
    evaluated: int,
    reported: int,
) -> int:
    """The most epochs, from 1 to `most`, of which a run with its evaluations ends within so many minutes.

    settled: the recipe for a number of epochs. evaluated: images that go forward in each evaluation; reported: those of
    the report at the end.
    """

    def fits(epochs: int) -> bool:
        recipe = settled(epochs)
        forward = math.ceil(epochs / recipe.eval_every) * evaluated + reported
        steps = epochs * steps_per_epoch + FORWARD * forward / recipe.batch_size
        return steps * step_seconds + REST <= 60 * minutes

    least = 1 + settled(most).head_only_epochs
    return next((epochs for epochs in range(most, least, -1) if fits(epochs)), least)


def largest_batch(parts: Parts, sample: Any, evaluated: int, images: int) -> int:
    """Images in the largest batch of one process that trains on its GPU.

    sample: a batch of the run, whose images are repeated. evaluated: images in a batch of the evaluation, which has to
    fit beside all of that. images: the most there are. The weights are of no use afterwards. Raises UserError through
    `train_step` for whatever else is wrong.
    """
    device = sample.images.device

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _step(parts, repeated(sample, size), evaluated)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            full = True
        else:
            full = torch.cuda.max_memory_reserved(device) > SHARE * torch.cuda.mem_get_info(device)[1]
        for optimizer in parts.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return not full

    return largest(fits, min(MOST, images))


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1..most that fits, 1 if none does: doubled until it does not, then halved in between, in steps of
    an eighth of the size, which is as fine as is worth a trial."""
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    if high > most and low < most and fits(most):
        return most
    high = min(high, most)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if low < 16 else low // 8 * 8


def repeated(sample: Any, size: int) -> Any:
    """The batch with `size` images: its own, again and again."""
    rows = [i % len(sample.images) for i in range(size)]
    targets = sample.targets
    targets = targets[rows] if isinstance(targets, Tensor) else [targets[i] for i in rows]
    return sample._replace(images=sample.images[rows], targets=targets, index=torch.arange(size))


def _step(parts: Parts, batch: Any, evaluated: int) -> None:
    task = parts.task
    task.model.train()
    for _ in range(2):  # the optimizers have their state from the first on
        train_step(task, batch, parts.optimizers, parts.loop)
    if parts.ema is not None:
        parts.ema.update(task.model)
    task.model.eval()
    own = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    with torch.inference_mode(), autocast(batch.images.device, parts.loop.amp):
        task.predict(repeated(batch, evaluated).images)
    del own
