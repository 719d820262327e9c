"""Mixed precision: the number format that a step computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def mixed_precision(amp: str, device: torch.device) -> torch.dtype | None:
    """The dtype for autocast; None for float32. amp: auto, none, bf16 or fp16."""
    if amp == "auto":
        amp = "bf16" if _fast_in_bf16(device) else "none"
    return DTYPES[amp]


def autocast(device: torch.device, amp: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=amp) if amp is not None else nullcontext()


def _fast_in_bf16(device: torch.device) -> bool:
    """CPUs are faster only with bfloat16 matrix or vector instructions (benchmarks/LOG.md)."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # pyright: ignore
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
