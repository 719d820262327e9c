"""Linear layers: torch's, or oneDNN's in float32 on CPUs where torch's own matrix products are slow.

On x86, torch multiplies float32 matrices with MKL, which does not use the AVX-512 units of AMD's CPUs and reaches half
the rate of oneDNN there (benchmarks/LOG.md). torch contains oneDNN as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 1 << 22
"""Fewest multiply-adds worth a call of oneDNN, twice as many with gradients: a call takes 15 us, with gradients 70 us,
in which MKL does a third of them."""
PLAIN = (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x w^T + b: x [..., K], weight [N, K], bias [N] -> [..., N]."""
    if MKL_IS_SLOW and _suits(x, weight) and not _is_rewritten():
        return product(x, weight, bias)
    return F.linear(x, weight, bias)


_LIBRARY = torch.library.Library("vitral", "FRAGMENT")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = torch.ops.vitral.linear.default
"""The same by oneDNN, in float32 on a CPU. A custom operator, which torch.compile does not touch: it compiles oneDNN's
own operator only for weights that never change."""


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _shaped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """By `product` itself, so that second derivatives exist, too."""
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad
    g, rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    return (
        product(grad, weight.t(), None) if of_x else None,
        _of_weight(g, rows) if of_weight else None,
        g.sum(0) if of_bias else None,
    )


def _of_weight(g: Tensor, rows: Tensor) -> Tensor:
    """g^T rows: [R, N], [R, K] -> [N, K]. oneDNN copies its first operand, which is therefore the narrower one."""
    if g.shape[1] <= rows.shape[1]:
        return product(g.t(), rows.t(), None)
    return product(rows.t(), g.t(), None).t().contiguous()


_LIBRARY.impl("linear", _forward, "CPU")
torch.library.register_fake("vitral::linear", _shaped)
torch.library.register_autograd("vitral::linear", _backward, setup_context=_keep)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is large enough and plain float32: shards and quantized weights have products of their own."""
    return (
        x.numel() * weight.shape[0] >= (2 * LEAST if torch.is_grad_enabled() else LEAST)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and not torch.is_autocast_enabled("cpu")
    )


def _is_rewritten() -> bool:
    """Whether the call is exported, traced or transformed by torch.func, all of which need standard operators."""
    return (
        torch.compiler.is_exporting() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()  # pyright: ignore
    )


def _mkl_is_slow() -> bool:
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _cpu()
    )


def _cpu() -> str:
    """A text that names the maker: the start of a file on Linux, a variable on Windows."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return file.read(512)
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", "")


MKL_IS_SLOW = _mkl_is_slow()
