"""One step of training: a batch, in parts and over all processes, to one update of the weights, or to none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from vit.errors import UserError
from vit.optim.schedule import Loop
from vit.processes.world import ALONE, World
from vit.tasks.precision import autocast
from vit.tasks.task import Task


def train_step(
    task: Task,
    batch: Any,
    optimizers: list[Optimizer],
    loop: Loop,
    scaler: torch.amp.GradScaler | None = None,
    world: World = ALONE,
) -> Tensor:
    """One update of the weights; the loss, still on the device.

    Where the loss or the gradient is not finite, what is returned is not either, and weights and optimizers stay as
    they were. (A scaler of half precision looks for its factor by gradients that overflow: these steps are left out,
    too, and their loss is returned.)

    With several processes each has its part of the batch in `batch`, and the loss is that of all.
    """
    device, total = batch.images.device, torch.zeros((), device=batch.images.device)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    count, shares = _shares(task, batch, loop.accumulate, world)
    images, targets = split(batch.images, count), split(batch.targets, count)
    for i, (part, wanted) in enumerate(zip(images, targets, strict=True)):
        with world.last(task.model, i + 1 == count):
            with autocast(device, loop.amp):
                terms = task.losses(part, wanted)
            loss = torch.stack(list(terms.values())).sum() * shares[i]
            scaler.scale(loss).backward()
        total += loss.detach()
    total = world.mean(total)
    # One whose parameters all wait has nothing to scale, which the scaler takes for a mistake.
    optimizers = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    trained = [p for p in task.model.parameters() if p.requires_grad]
    norm = world.whole(clip_grad_norm_(trained, loop.clip) if loop.clip is not None else _norm(trained))
    # The one moment at which the program waits for the device.
    finite, known = torch.stack([total.isfinite(), norm.isfinite()]).tolist()
    if not finite or not (known or (scaler.is_enabled() and scaler.get_scale() > 1)):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if scaler.is_enabled():
            scaler.update(scaler.get_scale() / 2)
        return total.new_tensor(float("nan")) if finite else total
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total


def fitting_step(
    take: Callable[[int], Tensor], parts: int, images: int, optimizers: Sequence[Optimizer], device: torch.device
) -> tuple[Tensor, int]:
    """`take(parts)`, in twice as many parts each time that memory runs out; what it gives, and in how many parts.

    Raises UserError where a single image is too much.
    """
    while True:
        try:
            return take(parts), parts
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler: its traceback holds on to every tensor of the step.
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if parts >= images:
            raise UserError(
                "memory does not suffice for one image at a time. Try a smaller --image-size or model, or --recompute."
            )
        parts = min(2 * parts, images)


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


def split(values: Any, n: int) -> list[Any]:
    """A batch (a tensor, or a list of one target an image) in exactly n parts of like size."""
    size, more = divmod(len(values), n)
    ends = [size * (i + 1) + min(i + 1, more) for i in range(n)]
    return [values[first:end] for first, end in zip([0, *ends], ends, strict=False)]


def _shares(task: Task, batch: Any, accumulate: int, world: World) -> tuple[int, Sequence[Any]]:
    """How many parts there are, on every process alike, and what the loss of each has to be multiplied by so that all
    together are the loss of the whole batch."""
    count = min(accumulate, len(batch.images))
    if world.size == 1 and count == 1:
        return 1, (1.0,)
    whole = task.amount(batch.targets)
    if world.size > 1:
        # The gradients of the processes are averaged, so that each takes its part `size` times.
        whole, count = world.totals(whole, count)
        whole = whole / world.size
        least = task.least / world.size
    else:
        least = task.least
    amounts = [task.amount(part).clamp(min=task.least) for part in split(batch.targets, count)]
    return count, [amount / whole.clamp(min=least) for amount in amounts]


def _norm(trained: list[nn.Parameter]) -> Tensor:
    return get_total_norm([p.grad for p in trained if p.grad is not None])
