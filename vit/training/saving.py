"""Write a run's checkpoints: in the background by one process, or as shards by all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.errors import Stopped
from vit.processes.world import ALONE, World
from vit.runs.background import BackgroundWriter, snapshot
from vit.runs.checkpoint import load_trainer, save_checkpoint
from vit.runs.retention import newest_intact, save_last
from vit.tasks.run import Parts
from vit.training.sharded import save_sharded
from vit.training.sharded import whole as gathered

MINUTES = 10
"""Interval between checkpoints, unless --save-every sets one."""


class Saver:
    """The loop's `Save`: saves "last" or "best" weights, with their metrics and the state for resuming. config: entries
    of config.json besides the metrics."""

    def __init__(self, folder: Path, recipe: Any, parts: Parts, config: dict[str, Any], world: World) -> None:
        self.checkpoints = folder / "checkpoints"
        self.parts, self.config, self.world = parts, config, world
        self.every, self.keep = recipe.save_every, recipe.keep
        self.writer = BackgroundWriter()
        self._saved = time.monotonic()

    def __call__(self, name: str, weights: dict[str, Tensor], numbers: dict[str, Any], state: dict[str, Any]) -> None:
        self._saved = time.monotonic()
        entries = {**self.config, "metrics": numbers}
        if self.world.sharded:
            if name == "last":
                self._save_shards(entries, state)
                return
            weights = gathered(weights)
        if not self.world.main:
            return
        kept, state = snapshot((self.parts.task.kept(weights), state))

        def write() -> None:
            if name == "last":
                save_last(self.checkpoints, kept, {**entries, "step": state["progress"]["step"]}, state, self.keep)
            else:
                save_checkpoint(self.checkpoints / name, kept, entries)

        self.writer.put(name, write)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this many steps."""
        if self.every is not None:
            return step % self.every == 0
        return self.world.main and time.monotonic() - self._saved > 60 * MINUTES

    def restore(self, log: Callable[[str], object]) -> dict[str, Any] | None:
        """The state of the newest good checkpoint."""
        self.writer.wait()
        return resumed_state(self.checkpoints, log, self.world, well=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Finish pending writes at the end, unless interrupted by the user."""
        try:
            yield
        except KeyboardInterrupt as error:
            if isinstance(error, Stopped):  # a signal: the last checkpoint must be complete
                self.writer.close()
            raise
        except BaseException:
            self.writer.finish()
            raise
        else:
            self.writer.close()

    def _save_shards(self, entries: dict[str, Any], state: dict[str, Any]) -> None:
        tensors, entries = state.pop("tensors"), {**entries, "step": state["progress"]["step"]}
        save_sharded(
            self.checkpoints / "sharded.new",
            tensors,
            self.world,
            lambda shards: save_last(self.checkpoints, None, entries, state, self.keep, shards),
        )


def resumed_state(
    checkpoints: Path, log: Callable[[str], object], world: World = ALONE, *, well: bool = False
) -> dict[str, Any] | None:
    """The state of a run's newest intact checkpoint, the same for every process; None without checkpoints. With `well`,
    of the newest that does not follow a skipped step. Raises UserError if none is intact."""
    own: list[dict[str, Any]] = []

    def find() -> Path | None:
        newest = newest_intact(checkpoints, log, lambda state: not (well and state["progress"].get("bad")))
        if newest is None:
            return None
        own.append(newest[1])
        return newest[0]

    place = world.on_main(find)
    if place is None:
        return None
    return own[0] if own else load_trainer(place)
