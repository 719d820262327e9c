"""What to do when memory runs out: the same step in more parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from vit.errors import UserError


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
