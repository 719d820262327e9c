"""Everything of a run that changes while it trains: what a checkpoint keeps so that it goes on as if never stopped.

Neither the order of the data nor any random stream is among it: both are functions of the seed and the step.
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
    """Where a run stands; with the optimizers and the EMA all that resuming needs."""

    step: int = 0
    best: float | None = None
    """The highest score so far."""
    best_step: int = 0
    """When the checkpoint "best" was taken."""
    stale: int = 0
    """Evaluations since the highest score."""
    evaluated: int = 0
    """The last step that an evaluation followed."""
    bad: int = 0
    """Steps in a row, up to this one, that were left out: loss or gradient was not finite."""
    returns: int = 0
    """How often the run went back to an earlier checkpoint because of that."""
    rate: float = 1.0
    """Factor of the learning rate, which every return lowers."""
    parts: int = 1
    """Parts that a batch goes through the model in: more than asked for once memory has run out."""


@dataclass
class Resumable:
    """`state` gives it as plain containers of tensors, `load` puts such a state in place."""

    model: nn.Module
    optimizers: list[Optimizer]
    scaler: torch.amp.GradScaler
    ema: Ema | None
    progress: Progress
    meter: Meter
    sharded: bool = False
    """Each process holds a part of the tensors: they are apart from the rest of the state, under "tensors"."""

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
