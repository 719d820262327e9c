"""Parameter groups, optimizers, the learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vit.model.depth import count_blocks, depth_of, in_blocks
from vit.optim.muon import Muon

_NO_DECAY = ("_token", "pos_embed", "probe", "rope_freqs", "table")

OptimizerName = Literal["adamw", "muon"]


def make_optimizers(
    model: nn.Module,
    *,
    name: OptimizerName,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_first: bool = False,
    by_muon: Callable[[str, Tensor], bool] = in_blocks,
) -> list[Optimizer]:
    """One optimizer, or two for "muon": Muon (Jordan et al. 2024) for the matrices that `by_muon(name, parameter)`
    selects, AdamW for the rest. A parameter of depth l has the learning rate lr * layer_decay^(depth + 1 - l) (BEiT,
    Bao et al. 2022).

    Vectors, tokens and positions have no weight decay. Every trainable parameter is in exactly one group, or an
    AssertionError names it. Each group keeps its own rate in `base_lr` for `set_lr` and, with head_first, in `waits`
    whether it waits for the head (see `let_learn`).
    """
    depth = count_blocks(name for name, _ in model.named_parameters())
    groups: dict[tuple, list[nn.Parameter]] = {}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and not key.endswith(_NO_DECAY)
        muon = name == "muon" and matrix and by_muon(key, parameter)
        scale = layer_decay ** (depth + 1 - depth_of(key, depth))
        waits = head_first and not key.startswith("head.")
        groups.setdefault((muon, matrix, scale, waits), []).append(parameter)
    muon_groups, adam_groups = [], []
    for (muon, matrix, scale, waits), parameters in groups.items():
        rate = (muon_lr if muon else lr) * scale
        decay = weight_decay if matrix else 0.0
        group = {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay, "waits": waits}
        (muon_groups if muon else adam_groups).append(group)
    optimizers: list[Optimizer] = []
    if adam_groups:
        optimizers.append(torch.optim.AdamW(adam_groups, lr=lr, fused=True))
    if muon_groups:
        optimizers.append(Muon(muon_groups, lr=muon_lr, weight_decay=weight_decay))
    assert_covers(model, optimizers)
    return optimizers


def assert_covers(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Every trainable parameter is in exactly one group of one optimizer."""
    seen: dict[int, int] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        times = seen.pop(id(parameter), 0)
        expected = int(parameter.requires_grad)
        assert times == expected, f"parameter {name} is in {times} optimizer groups, not {expected}"
    assert not seen, f"{len(seen)} optimized parameters are not the model's"


def warmup_cosine(step: int, total: int, warmup: int, final: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `total`: linear from 1/warmup to 1, then a half cosine down to
    `final` (Loshchilov & Hutter 2017, eq. 5)."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizers: Iterable[Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def let_learn(optimizers: Iterable[Optimizer], *, head_only: bool) -> None:
    """Turn the gradients of all groups that wait for the head off or on. Without a gradient, an optimizer does not
    change a parameter and keeps no state for it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("waits"):
                for parameter in group["params"]:
                    parameter.requires_grad_(not head_only)


class Ema:
    """Moving average of a model's parameters, warmed up as min(decay, (1 + t) / (10 + t)); buffers are copied.

    `state` holds the averages under the model's own names, as a checkpoint stores them.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        trained = {name for name, _ in model.named_parameters()}
        self._averaged = [name for name in self.state if name in trained]
        self._copied = [name for name in self.state if name not in trained]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now: dict[str, Tensor] = model.state_dict()
        averages = [self.state[name] for name in self._averaged]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            averages, [now[name].detach() for name in self._averaged], 1 - decay
        )
        for name in self._copied:
            self.state[name].copy_(now[name])
