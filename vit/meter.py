"""The running loss and rate of a training loop."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vit.errors import UserError


class Meter:
    """Mean loss and rate since the last row. The loss stays on the device until a row is due."""

    def __init__(self, steps_per_epoch: int, saved: int | None):
        """saved: the step of the checkpoint that the run could go on from, if there is one."""
        self.steps_per_epoch, self.steps, self._saved = steps_per_epoch, 0, saved
        self.lr = self.rate = float("nan")
        self._clear()
        self._restart()

    def add(self, loss: Tensor, images: int) -> None:
        self._losses.append(loss)
        self._images += images
        self.steps += 1

    def row(self, step: int, optimizers: list[Optimizer]) -> dict[str, Any]:
        """Raises UserError when the loss is not finite."""
        loss = float(torch.stack(self._losses).mean())
        if not math.isfinite(loss):
            kept = (
                "no checkpoint had been saved" if self._saved is None else f"checkpoints/last is of step {self._saved}"
            )
            raise UserError(
                f"the loss is {loss} at step {step}. A lower --lr, a longer --warmup or --clip 1 usually helps; {kept}."
            )
        self.lr = max(group["lr"] for optimizer in optimizers[:1] for group in optimizer.param_groups)
        self.rate = self._images / (time.perf_counter() - self._since)
        self._total += loss * len(self._losses)
        self._counted += len(self._losses)
        row = {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "loss": loss,
            "lr": self.lr,
            "images_per_second": self.rate,
        }
        self._clear()
        self._since = time.perf_counter()
        return row

    @property
    def loss(self) -> float:
        """Mean over the steps in rows since the last evaluation."""
        return self._total / max(1, self._counted)

    def saved(self, step: int) -> None:
        """After an evaluation, whose time does not count, and a checkpoint of this step."""
        self._saved = step
        self._restart()

    def _restart(self) -> None:
        self._total, self._counted = 0.0, 0
        self._since = time.perf_counter()

    def _clear(self) -> None:
        self._losses: list[Tensor] = []
        self._images = 0
