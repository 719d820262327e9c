"""The training state that a checkpoint stores for an exact resume.

It excludes the order of the data and random streams: both are functions of the seed and the step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vit.optim.optimizers import Ema
from vit.training.meter import Meter
from vit.training.sharded import read_tensors, tensors_of


@dataclass
class Progress:
    """The progress of a run; with optimizers and EMA, everything that resuming needs."""

    step: int = 0
    best: float | None = None
    """The highest score so far."""
    best_step: int = 0
    """The step of the checkpoint "best"."""
    stale: int = 0
    """Evaluations since the highest score."""
    evaluated: int = 0
    """The step of the last evaluation."""
    bad: int = 0
    """Number of consecutive skipped steps: loss or gradient was not finite."""
    returns: int = 0
    """Number of returns to an earlier checkpoint because of them."""
    rate: float = 1.0
    """Factor on the learning rate, lowered at every return."""
    parts: int = 1
    """Number of parts that a batch is split into; raised when memory runs out."""


@dataclass
class Resumable:
    """`state` returns everything as plain containers of tensors; `load` restores it."""

    model: nn.Module
    optimizers: list[Optimizer]
    scaler: torch.amp.GradScaler
    ema: Ema | None
    progress: Progress
    meter: Meter
    sharded: bool = False
    """Whether each process holds shards; they are then stored separately, under "tensors"."""

    def state(self) -> dict[str, Any]:
        ema = self.ema
        state = {
            "progress": asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "meter": self.meter.state(),
        }
        if self.sharded:
            updates = 0 if ema is None else ema.updates
            return {**state, "updates": updates, "tensors": tensors_of(self.model, self.optimizers, ema)}
        return {
            **state,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": None if ema is None else {"updates": ema.updates, "state": ema.state},
        }

    def load(self, state: dict[str, Any]) -> None:
        for key, value in state["progress"].items():
            setattr(self.progress, key, value)
        self.meter.load(state["meter"])
        self.scaler.load_state_dict(state["scaler"])
        if self.sharded:
            read_tensors(Path(state["sharded"]), self.model, self.optimizers, self.ema)
            if self.ema is not None:
                self.ema.updates = state["updates"]
            return
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        if self.ema is not None and state["ema"] is not None:
            self.ema.updates = state["ema"]["updates"]
            for name, average in state["ema"]["state"].items():
                self.ema.state[name].copy_(average)
