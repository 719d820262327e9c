"""Muon, with its iteration on the small side of each matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024), same options and same state, with another way to the same update on a
    CPU: the Newton-Schulz iteration in float32 by `orthogonalize`. torch's runs in bfloat16, which a CPU without
    matrix units for it emulates, and multiplies the whole matrix in every iteration; on a width of 128 this one
    takes 0.35 of the time (benchmarks/LOG.md). On any other device the step is torch's own.
    """

    def __init__(self, params: ParamsT, *, lr: float, weight_decay: float):
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)
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
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rows, columns = p.shape
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The Newton-Schulz iteration of Muon, X <- (a I + b X X' + c (X X')^2) X from X = matrix / norm, [M, N] -> [M, N]
    in float32: about U V' of the singular value decomposition U S V'.

    Every factor is a polynomial in G = X X', and these commute: G is formed once on the smaller side, the factors are
    multiplied there (G itself goes to Q G Q), and their product meets X once. A matrix that is nearly square gains
    nothing by that and is iterated as written.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix).float()
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
