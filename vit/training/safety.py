"""What watches over a run: signals, steps that must not reach the weights, and the way back from them.

A step whose loss or gradient is not finite is left out. Where that happens LIMIT times in a row the weights are on
their way out, too, though they are finite yet: the run goes back to the last good checkpoint and takes a lower rate.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vit.errors import UserError
from vit.optim.schedule import Loop
from vit.processes.signals import Stop
from vit.processes.world import ALONE, World
from vit.runs.background import snapshot
from vit.tasks.task import Task
from vit.training.log import RunLog
from vit.training.state import Progress, Resumable

LIMIT = 5
"""So many steps in a row that are not finite are no accident."""
RETURNS = 3
"""The most times that a run goes back."""
LOWER = 0.5
"""Factor of the learning rate with each of them."""
RECORDS = 3
"""So many of the steps left out are kept for a closer look."""


@dataclass
class Safety:
    """The default is a loop that nobody watches: it leaves out steps, and ends where it would go back."""

    stop: Stop = field(default_factory=Stop)
    world: World = ALONE
    due: Callable[[int], bool] = lambda step: False
    """Whether it is time for a checkpoint after so many steps."""
    restore: Callable[[], dict[str, Any] | None] = lambda: None
    """The state in the newest checkpoint that was saved while all was well."""
    spread: Callable[[Task], Task] = lambda task: task
    """The task with its model spread over the processes."""
    folder: Path | None = None
    """Where records of steps left out go."""
    command: str = ""
    """What repeats a step, but for its number."""

    def left_out(self, run: Resumable, batch: Any, loop: Loop, log: RunLog, loss: float) -> None:
        """Tell of a step, and keep what is needed to repeat it: what it began with, random numbers among it."""
        at, images = run.progress, self.world.gather(batch.index.tolist()) if self.folder is not None else []
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        told = f"step {at.step} was left out: its loss or gradient is not finite"
        folder = None if self.folder is None else self.folder / "nonfinite" / f"step-{at.step}"
        if folder is None or not self.world.main:
            log.say(told)
            return
        if not folder.exists() and len(list(folder.parent.glob("step-*"))) >= RECORDS:
            log.say(told)
            return
        folder.mkdir(parents=True, exist_ok=True)
        command = f"{self.command} {at.step}"
        record = {
            "step": at.step,
            "epoch": at.step // loop.steps_per_epoch,
            "what": what,
            "images": [row for own in images for row in own],
            "seed": loop.seed,
            "torch_seed": loop.step_seed(at.step),
            "lr_factor": loop.rate(at.step) * at.rate,
            "command": command,
        }
        (folder / "batch.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        if not self.world.sharded:  # every process would have to write
            torch.manual_seed(loop.step_seed(at.step))
            torch.save({**snapshot(run.state()), "rng": torch.get_rng_state()}, folder / "trainer.pt")
        log.say(f"{told}; to repeat it: {command}")

    def gives_up(self, at: Progress) -> bool:
        return at.bad >= LIMIT

    def go_back(self, run: Resumable, log: RunLog) -> None:
        """Put the last good state in place, with a lower rate. Raises UserError where there is none, or once too
        often."""
        at = run.progress
        failed = f"the loss or its gradient was not finite in {at.bad} steps in a row, up to step {at.step}"
        remedy = "A lower --lr, a longer --warmup or --clip 1 usually helps"
        if self.folder is not None:
            remedy += f"; {shlex.quote(str(self.folder / 'nonfinite'))} has the batches"
        if at.returns >= RETURNS:
            raise UserError(f"{failed}, after {at.returns} returns to a good checkpoint with lower rates. {remedy}.")
        state = self.restore()
        if state is None:
            raise UserError(f"{failed}, before a good checkpoint was saved. {remedy}.")
        returns, rate, parts = at.returns + 1, at.rate * LOWER, at.parts
        run.load(state)
        at.returns, at.rate, at.parts, at.bad = returns, rate, max(parts, at.parts), 0
        log.cut(at.step, at.evaluated)
        log.say(f"{failed}: back to the checkpoint of step {at.step}, at {rate:g} times the rate ({returns}. return)")
