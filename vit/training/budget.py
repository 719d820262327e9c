"""Measure what fits: --batch-size auto into GPU memory, --minutes into a time budget."""

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
from vit.training.engine import train_step
from vit.training.memory import out_of_memory
from vit.training.parts import assemble, average

SHARE = 0.92
"""Fraction of GPU memory for a batch; fragmentation, other image sizes and the display need the rest."""
MOST = 4096
FORWARD = 1 / 2
"""Time to evaluate an image relative to training on it: there is no backward pass, but decoding costs the same."""
REST = 15.0
"""Seconds for work that does not scale with images: loading the best checkpoint, the report and its plots."""


def batch_that_fits(row: Row, run: Run) -> int | None:
    """The batch size for --batch-size auto; the recipe's default if not measurable. A resumed run keeps its own."""
    recipe, images = run.recipe, len(run.data.train)
    default = type(recipe)().batch_size
    if recipe.resume:
        return read_recipe(resumed(recipe), type(recipe)).batch_size
    settle = row.part("settle")
    trial = replace(recipe, batch_size=min(settle.TRIAL_BATCH, images))
    settled = settle.largest(settle.settle(trial, run.facts, run.start)[0], run.start)
    assembly = assemble(row, replace(run, recipe=settled))
    if assembly.feed.once:
        print("--batch-size auto has no effect on a frozen encoder: the recipe's default is used.", flush=True)
        return default
    if run.device.type != "cuda":
        print("--batch-size auto needs a GPU to measure, but there is none: the recipe's default is used.", flush=True)
        return default
    average(assembly.parts, settled)
    evaluated = row.part("feed").evaluation_batch(run.device)
    own = largest_batch(assembly.parts, next(iter(assembly.parts.batches)), evaluated, max(1, images // run.world.size))
    size = run.world.size * min(run.world.gather(own))
    print(f"Batch size {size} is the largest that fits, with optimizer, weight average and evaluation.", flush=True)
    return size


def affordable(row: Row, run: Run, requested: Any) -> Any:
    """`requested`, settled, with the epochs limited to its minutes, by timing some steps on this machine; a resumed run
    keeps its epochs. `run.recipe` is the settled recipe without the limit."""
    recipe, data = run.recipe, run.data

    def settled(epochs: int) -> Any:
        return row.part("settle").settle(replace(requested, epochs=epochs), run.facts, run.start)[0]

    if requested.resume:
        return settled(read_recipe(resumed(requested), type(requested)).epochs)
    assembly = assemble(row, run)
    if assembly.feed.once:
        print("--minutes has no effect on a frozen encoder, which processes each image only once.", flush=True)
        return recipe
    parts = assembly.parts
    endless = itertools.chain.from_iterable(itertools.repeat(parts.batches))

    def step() -> object:
        return train_step(parts.task, next(endless), parts.optimizers, parts.loop)

    seconds = pace(step, run.device, at_least=5.0, at_most=50)
    val, test = (0 if images is None else len(images) for images in (data.val, data.test))
    plain = min(IMAGES, len(data.train)) if parts.plain is not None else 0
    epochs = fitting_epochs(
        requested.minutes,
        recipe.epochs,
        settled,
        step_seconds=seconds,
        steps_per_epoch=parts.loop.steps_per_epoch,
        evaluated=val + plain,
        reported=val + test,
    )
    print(
        f"{epochs} of {recipe.epochs} epochs fit into {requested.minutes:g} minutes at {seconds * 1e3:.0f} ms a step.",
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
    """The most epochs, from 1 to `most`, that a run with its evaluations finishes in these minutes. settled: the recipe
    for a number of epochs. evaluated: images per evaluation; reported: images of the final report."""

    def fits(epochs: int) -> bool:
        recipe = settled(epochs)
        forward = math.ceil(epochs / recipe.eval_every) * evaluated + reported
        steps = epochs * steps_per_epoch + FORWARD * forward / recipe.batch_size
        return steps * step_seconds + REST <= 60 * minutes

    least = 1 + settled(most).head_only_epochs
    return next((epochs for epochs in range(most, least, -1) if fits(epochs)), least)


def largest_batch(parts: Parts, sample: Any, evaluated: int, images: int) -> int:
    """The largest batch size with which one process can train on its GPU. Destroys the weights.

    sample: a batch of the run, whose images are repeated. evaluated: evaluation batch size, which must fit as well.
    images: the upper limit.
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
    """The largest of 1..most that fits, 1 if none does: by doubling, then bisection to within an eighth of the size."""
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
    """The batch with its images repeated to `size`."""
    rows = [i % len(sample.images) for i in range(size)]
    targets = sample.targets
    targets = targets[rows] if isinstance(targets, Tensor) else [targets[i] for i in rows]
    return sample._replace(images=sample.images[rows], targets=targets, index=torch.arange(size))


def _step(parts: Parts, batch: Any, evaluated: int) -> None:
    task = parts.task
    task.model.train()
    for _ in range(2):  # the first step allocates the optimizer state
        train_step(task, batch, parts.optimizers, parts.loop)
    if parts.ema is not None:
        parts.ema.update(task.model)
    task.model.eval()
    own = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    with torch.inference_mode(), autocast(batch.images.device, parts.loop.amp):
        task.predict(repeated(batch, evaluated).images)
    del own
