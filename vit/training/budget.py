"""--batch-size auto: the largest batch that fits into the memory of a GPU, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vit.optim.optimizers import Ema
from vit.processes.world import World
from vit.tasks.task import Task
from vit.training.schedule import Loop
from vit.training.step import autocast, out_of_memory, train_step

SHARE = 0.92
"""Of the memory that a batch may take: fragments, other sizes of images and the display need the rest."""
MOST = 4096


def largest_batch(
    task: Task,
    sample: Any,
    optimizers: list[Optimizer],
    loop: Loop,
    *,
    ema: float,
    evaluated: int,
    images: int,
    world: World,
    tell: Callable[[str], object],
) -> int | None:
    """Images in the largest batch that trains, of all processes together; None where there is no GPU to measure.

    sample: a batch of the run, whose images are repeated. ema: decay of the moving average, 0 for none. evaluated:
    images in a batch of the evaluation, which has to fit beside all of that. images: in the training set. The weights
    of the task are of no use afterwards. Raises UserError through `train_step` for whatever else is wrong.
    """
    device = sample.images.device
    if device.type != "cuda":
        tell("--batch-size auto measures the memory of a GPU; here there is none, and the recipe's own size is taken")
        return None
    average = Ema(task.model, ema) if ema else None

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _step(task, repeated(sample, size), optimizers, loop, average, evaluated)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            full = True
        else:
            full = torch.cuda.max_memory_reserved(device) > SHARE * torch.cuda.mem_get_info(device)[1]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return not full

    own = largest(fits, min(MOST, max(1, images // world.size)))
    size = world.size * min(world.gather(own))
    tell(f"batch_size {size}: the largest that fits, with optimizer, average and evaluation")
    return size


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


def _step(task: Task, batch: Any, optimizers: list[Optimizer], loop: Loop, average: Ema | None, evaluated: int) -> None:
    task.model.train()
    for _ in range(2):  # the optimizers have their state from the first on
        train_step(task, batch, optimizers, loop)
    if average is not None:
        average.update(task.model)
    task.model.eval()
    own = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    with torch.inference_mode(), autocast(batch.images.device, loop.amp):
        task.predict(repeated(batch, evaluated).images)
    del own
