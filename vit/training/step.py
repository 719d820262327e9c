"""One training step: a batch, split into parts and over all processes, for one update of the weights."""

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
    """Update the weights once; the loss, still on the device.

    If the loss or the gradient is not finite, neither is the returned loss, and weights and optimizers stay unchanged.
    (Steps that overflow while a half-precision scaler searches its factor are also skipped, but return their loss.)
    With several processes, `batch` is this process's share, and the loss is that of the whole batch.
    """
    device, total = batch.images.device, torch.zeros((), device=batch.images.device)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    count, shares = _shares(task, batch, loop.accumulate, world)
    images, targets = split(batch.images, count), split(batch.targets, count)
    for i, (part, truth) in enumerate(zip(images, targets, strict=True)):
        with world.last(task.model, i + 1 == count):
            with autocast(device, loop.amp):
                terms = task.losses(part, truth)
            loss = torch.stack(list(terms.values())).sum() * shares[i]
            scaler.scale(loss).backward()
        total += loss.detach()
    total = world.mean(total)
    # The scaler rejects an optimizer without gradients.
    optimizers = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    trained = [p for p in task.model.parameters() if p.requires_grad]
    norm = world.whole(clip_grad_norm_(trained, loop.clip) if loop.clip is not None else _norm(trained))
    # The only synchronization with the device.
    loss_finite, norm_finite = torch.stack([total.isfinite(), norm.isfinite()]).tolist()
    if not loss_finite or not (norm_finite or (scaler.is_enabled() and scaler.get_scale() > 1)):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if scaler.is_enabled():
            scaler.update(scaler.get_scale() / 2)
        return total.new_tensor(float("nan")) if loss_finite else total
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total


def fitting_step(
    take: Callable[[int], Tensor], parts: int, images: int, optimizers: Sequence[Optimizer], device: torch.device
) -> tuple[Tensor, int]:
    """Call `take(parts)`, with twice as many parts each time memory runs out; its result, and the number of parts.
    Raises UserError if a single image does not fit."""
    while True:
        try:
            return take(parts), parts
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler, whose traceback keeps every tensor of the step alive.
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if parts >= images:
            raise UserError("Memory is too small for one image. Use a smaller --image-size or model, or --recompute.")
        parts = min(2 * parts, images)


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


def split(values: Any, n: int) -> list[Any]:
    """A batch (a tensor, or a list of one target per image) in exactly n parts of similar size."""
    size, more = divmod(len(values), n)
    ends = [size * (i + 1) + min(i + 1, more) for i in range(n)]
    return [values[first:end] for first, end in zip([0, *ends], ends, strict=False)]


def _shares(task: Task, batch: Any, accumulate: int, world: World) -> tuple[int, Sequence[Any]]:
    """The number of parts, equal on every process, and the factor on each part's loss such that they add up to the loss
    of the whole batch."""
    count = min(accumulate, len(batch.images))
    if world.size == 1 and count == 1:
        return 1, (1.0,)
    whole = task.amount(batch.targets)
    if world.size > 1:
        # Gradients are averaged over processes, so that each share counts `size` times.
        whole, count = world.totals(whole, count)
        whole = whole / world.size
        least = task.least / world.size
    else:
        least = task.least
    amounts = [task.amount(part).clamp(min=task.least) for part in split(batch.targets, count)]
    return count, [amount / whole.clamp(min=least) for amount in amounts]


def _norm(trained: list[nn.Parameter]) -> Tensor:
    return get_total_norm([p.grad for p in trained if p.grad is not None])
