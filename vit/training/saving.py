"""How a run's checkpoints are written: in the background by one process, or in parts by all of them."""

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
"""Between checkpoints within an epoch, where --save-every does not say otherwise."""


class Saver:
    """What the loop calls with "last" or "best", the weights to keep, their validation figures and what resuming needs.

    config: what config.json holds besides the figures.
    """

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
        """Whether it is time for a checkpoint after so many steps."""
        if self.every is not None:
            return step % self.every == 0
        return self.world.main and time.monotonic() - self._saved > 60 * MINUTES

    def restore(self, log: Callable[[str], object]) -> dict[str, Any] | None:
        """The state in the newest checkpoint that was saved while all was well."""
        self.writer.wait()
        return resumed_state(self.checkpoints, log, self.world, well=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """At the end all that was put is written, unless nobody wants to wait for it."""
        try:
            yield
        except KeyboardInterrupt as error:
            if isinstance(error, Stopped):  # the last checkpoint is what it is for
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
    """The state in the newest checkpoint of a run that is whole, the same for every process; with `well` the newest
    that was saved while no step was left out. None where there is none. Raises UserError where none is whole."""
    own: list[dict[str, Any]] = []

    def find() -> Path | None:
        found = newest_intact(checkpoints, log, lambda state: not (well and state["progress"].get("bad")))
        if found is None:
            return None
        own.append(found[1])
        return found[0]

    place = world.on_main(find)
    if place is None:
        return None
    return own[0] if own else load_trainer(place)
