"""What a model costs before a run is started: parameters, FLOPs, memory, time."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import vit.model.linear  # noqa: F401


@dataclass(frozen=True)
class Cost:
    parameters: int
    trainable: int
    flops: int
    """Floating-point operations of one image forward (a multiply-add counts as two)."""
    memory: int
    """Bytes: the peak of the GPU's allocator, or of this process where there is no GPU."""
    step_seconds: float

    def lines(self, steps: int) -> list[str]:
        minutes = self.step_seconds * steps / 60
        total = f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        return [
            f"parameters   {self.parameters:,} ({self.trainable:,} trainable)",
            f"FLOPs        {self.flops / 1e9:.3g} G an image, forward",
            f"memory       {self.memory / 2**30:.2f} GiB at the peak of a training step",
            f"time         {self.step_seconds * 1e3:.0f} ms a step, {steps:,} steps: about {total} at this speed",
        ]


def count_parameters(model: nn.Module) -> str:
    """ "22,056,576 parameters", and how many are trainable if not all are."""
    parameters, trained = _numbers(model)
    return f"{parameters:,} parameters" + (f" ({trained:,} trainable)" if trained < parameters else "")


def _numbers(model: nn.Module) -> tuple[int, int]:
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def measure(model: nn.Module, image_shape: tuple[int, int, int], step: Callable[[], object]) -> Cost:
    """Cost of `step`, one training step of `model` on images [C, H, W]."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # With gradients: without them the counter fails on a model that passes a parameter to one of its modules.
    with flop_counter() as counter:
        model(torch.zeros(1, *image_shape, device=device))
    model.train(was_training)
    seconds = pace(step, device)
    return Cost(*_numbers(model), counter.get_total_flops(), _peak_memory(device), seconds)


def flop_counter() -> FlopCounterMode:
    """A context that counts the floating-point operations of forward passes (a multiply-add is two)."""
    # torch counts 0 where it has no formula: for vit.model.linear's operator and, in 2.11, for attention on CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {attention: _attention_flops, torch.ops.vitral.linear: _linear_flops}
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _linear_flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


def _attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


def pace(step: Callable[[], object], device: torch.device, *, at_least: float = 2.0, at_most: int = 10) -> float:
    """Seconds of a step: run once to warm up, then at least twice, for `at_least` seconds or `at_most` times."""
    step()
    _wait(device)
    start, times = time.perf_counter(), 0
    while times < at_most and (times < 2 or time.perf_counter() - start < at_least):
        step()
        times += 1
    _wait(device)
    return (time.perf_counter() - start) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB
