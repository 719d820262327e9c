"""The Muon optimizer, which iterates on the smaller side of each matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with the options and the state of `torch.optim.Muon`, also for convolution kernels
    [out, in, h, w], which are treated as matrices [out, in * h * w].

    The Newton-Schulz iteration runs in bfloat16, as in torch, but on a CPU in float32: without matrix units for
    bfloat16 a CPU is slow in it. With the shorter iteration of `orthogonalize` a step on a width of 128 takes 0.35 of
    torch's time (benchmarks/LOG.md).
    """

    def __init__(self, params: ParamsT, *, lr: float, weight_decay: float):
        """Raises ValueError for a parameter of less than two dimensions."""
        coefficients = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95, "nesterov": True, **coefficients}
        )
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon is for matrices and kernels, got a parameter of shape {tuple(p.shape)}.")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                momentum = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = update.flatten(1)
                rows, columns = update.shape
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The Newton-Schulz iteration of Muon, X <- (a I + b X X' + c (X X')^2) X from X = matrix / norm, [M, N] -> [M, N]
    in float32, on an accelerator in bfloat16: about U V' of the singular value decomposition U S V'.

    Every factor is a polynomial in G = X X', and these commute: G is formed once on the smaller side, the factors are
    multiplied there (G becomes Q G Q), and their product multiplies X once. A nearly square matrix gains nothing by
    that and is iterated as written.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm().clamp(min=eps)
    if x.shape[1] < 1.5 * x.shape[0]:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram = x @ x.mT
        product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        for step in range(steps):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal().add_(a)
            product = factor @ product if step else factor
            if step + 1 < steps:
                gram = factor @ gram @ factor
        x = product @ x
    return x.mT if tall else x
