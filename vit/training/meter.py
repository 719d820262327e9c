"""The running loss and rate of a training loop."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Meter:
    """Mean loss and rate since the last row. The loss stays on the device until a row is due."""

    def __init__(self, steps_per_epoch: int):
        self.steps_per_epoch, self.steps = steps_per_epoch, 0
        self.lr = self.rate = float("nan")
        self._clear()
        self.restart()

    def add(self, loss: Tensor, images: int) -> None:
        self._losses.append(loss)
        self._images += images
        self.steps += 1

    def skip(self, images: int) -> None:
        """Count a skipped step, which takes time but has no loss."""
        self._skipped += 1
        self._images += images
        self.steps += 1

    def row(self, step: int, optimizers: list[Optimizer]) -> dict[str, Any]:
        """A row for the log. The loss is None if every step was skipped; `skipped`, if present, counts them."""
        loss = float(torch.stack(self._losses).mean()) if self._losses else None
        self.lr = max(group["lr"] for optimizer in optimizers[:1] for group in optimizer.param_groups)
        self.rate = self._images / (time.perf_counter() - self._since)
        if loss is not None:
            self._total += loss * len(self._losses)
            self._counted += len(self._losses)
        row = {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "loss": loss,
            "lr": self.lr,
            "images_per_second": self.rate,
        }
        if self._skipped:
            row["skipped"] = self._skipped
        self._clear()
        self._since = time.perf_counter()
        return row

    @property
    def loss(self) -> float:
        """Mean loss over the logged steps since the last evaluation."""
        return self._total / max(1, self._counted)

    def restart(self) -> None:
        """Reset after an evaluation, whose time does not count."""
        self._total, self._counted = 0.0, 0
        self._since = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """The steps that the next row still has to count."""
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        return {"losses": losses, "skipped": self._skipped, "total": self._total, "counted": self._counted}

    def load(self, state: dict[str, Any]) -> None:
        self._clear()
        self._losses = list(state["losses"].unbind())
        self._skipped, self._total, self._counted = state["skipped"], state["total"], state["counted"]
        self._since = time.perf_counter()

    def _clear(self) -> None:
        self._losses: list[Tensor] = []
        self._images = self._skipped = 0
