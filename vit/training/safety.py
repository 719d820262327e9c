"""Safety of a run: signals, skipped steps, and the return to a good checkpoint.

A step whose loss or gradient is not finite is skipped. After LIMIT in a row the weights, though still finite, are about
to diverge: the run returns to the last good checkpoint with a lower learning rate.
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
"""Non-finite steps in a row after which the run returns."""
RETURNS = 3
"""Maximum number of returns of a run."""
LOWER = 0.5
"""Factor on the learning rate at each return."""
RECORDS = 3
"""Maximum number of skipped steps to record."""


@dataclass
class Safety:
    """By default, a loop skips steps, and fails instead of returning to a checkpoint."""

    stop: Stop = field(default_factory=Stop)
    world: World = ALONE
    due: Callable[[int], bool] = lambda step: False
    """Whether a checkpoint is due after this many steps."""
    restore: Callable[[], dict[str, Any] | None] = lambda: None
    """The state of the newest good checkpoint."""
    spread: Callable[[Task], Task] = lambda task: task
    """The task with its model distributed over the processes."""
    folder: Path | None = None
    """Run folder for records of skipped steps; None: no records."""
    command: str = ""
    """The command that replays a step, without the step number."""

    def left_out(self, run: Resumable, batch: Any, loop: Loop, log: RunLog, loss: float) -> None:
        """Log a skipped step, and record the state needed to replay it, including that of random numbers."""
        at, images = run.progress, self.world.gather(batch.index.tolist()) if self.folder is not None else []
        reason = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        message = f"Skipped step {at.step}: its loss or gradient is not finite."
        folder = None if self.folder is None else self.folder / "nonfinite" / f"step-{at.step}"
        if (
            folder is None
            or not self.world.main
            or (not folder.exists() and len(list(folder.parent.glob("step-*"))) >= RECORDS)
        ):
            log.say(message)
            return
        folder.mkdir(parents=True, exist_ok=True)
        command = f"{self.command} {at.step}"
        record = {
            "step": at.step,
            "epoch": at.step // loop.steps_per_epoch,
            "what": reason,
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
        log.say(f"{message} To replay it: {command}")

    def gives_up(self, at: Progress) -> bool:
        return at.bad >= LIMIT

    def go_back(self, run: Resumable, log: RunLog) -> None:
        """Restore the last good state with a lower rate. Raises UserError without one, or after too many returns."""
        at = run.progress
        failed = f"The loss or its gradient was not finite in {at.bad} steps in a row, up to step {at.step}"
        remedy = "A lower --lr, a longer --warmup or --clip 1 usually helps"
        if self.folder is not None:
            remedy += f"; the batches are recorded in {shlex.quote(str(self.folder / 'nonfinite'))}"
        if at.returns >= RETURNS:
            raise UserError(f"{failed}, after {at.returns} returns to a good checkpoint with lower rates. {remedy}.")
        state = self.restore()
        if state is None:
            raise UserError(f"{failed}, before a good checkpoint was saved. {remedy}.")
        returns, rate, parts = at.returns + 1, at.rate * LOWER, at.parts
        run.load(state)
        at.returns, at.rate, at.parts, at.bad = returns, rate, max(parts, at.parts), 0
        log.cut(at.step, at.evaluated)
        log.say(f"{failed}. Return {returns}: back to step {at.step}, at {rate:g} times the learning rate.")
