"""What every run of train.py has in common, whatever its task: folder, checkpoints, signals, log, processes, loop."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from vit.optim.optimizers import Ema
from vit.processes.signals import listening
from vit.processes.world import ALONE, World
from vit.runs.background import BackgroundWriter, snapshot
from vit.runs.checkpoint import load_trainer, save_checkpoint
from vit.runs.folder import bad_files_listed
from vit.runs.retention import newest_intact, save_last
from vit.tasks.task import Task
from vit.training.engine import fit
from vit.training.log import RunLog, Silent
from vit.training.safety import Safety
from vit.training.schedule import Loop
from vit.training.sharded import save_sharded
from vit.training.sharded import whole as gathered
from vit.training.spread import spread
from vit.training.state import Progress

MINUTES = 10
"""Between checkpoints within an epoch, where --save-every does not say otherwise."""


def run_training(
    recipe: Any,
    folder: Path,
    resume: dict[str, Any] | None,
    task: Task,
    batches: Any,
    validation: Callable[[], Iterable[Any]] | None,
    optimizers: list[Optimizer],
    loop: Loop,
    config: dict[str, Any],
    title: str,
    *,
    world: World = ALONE,
    whole: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights,
    watch: Callable[[Any, int], object] | None = None,
    plain: Callable[[], Iterable[Any]] | None = None,
    listed: bool = True,
) -> Progress:
    """`engine.fit` of a settled recipe in its run folder, from `resume` on.

    config: of the checkpoints. title: of what is trained. whole: from the weights of `task.model` to those of a
    checkpoint. listed: whether the images among `batches` that cannot be read are written down at the end.

    Raises Stopped when a signal ended the run, with everything saved, and UserError for what the user can change.
    """
    begun = resume["progress"] if resume is not None else {"step": 0, "evaluated": 0}
    checkpoints, saved = folder / "checkpoints", time.monotonic()
    ema = Ema(task.model, recipe.ema) if recipe.ema else None
    log: RunLog = Silent(loop.steps)
    if world.main:
        log = RunLog(folder, steps=loop.steps, start=begun["step"], judged=begun["evaluated"])
    files = bad_files_listed(folder, batches) if listed and world.main else nullcontext()

    def save(name: str, weights: dict[str, Tensor], numbers: dict[str, Any], state: dict[str, Any]) -> None:
        nonlocal saved
        saved = time.monotonic()
        entries = {**config, "metrics": numbers}
        if world.sharded:
            if name == "last":
                tensors, step = state.pop("tensors"), state["progress"]["step"]
                save_sharded(
                    checkpoints / "sharded.new",
                    tensors,
                    world,
                    lambda shards: save_last(checkpoints, None, {**entries, "step": step}, state, recipe.keep, shards),
                )
                return
            weights = gathered(weights)
        if not world.main:
            return
        kept, state = snapshot((whole(weights), state))

        def write() -> None:
            if name == "last":
                step = state["progress"]["step"]
                save_last(checkpoints, kept, {**entries, "step": step}, state, recipe.keep)
            else:
                save_checkpoint(checkpoints / name, kept, entries)

        writer.put(name, write)

    def due(step: int) -> bool:
        if recipe.save_every is not None:
            return step % recipe.save_every == 0
        return world.main and time.monotonic() - saved > 60 * MINUTES

    def restore() -> dict[str, Any] | None:
        writer.wait()
        return resumed_state(checkpoints, log.say, world, well=True)

    with listening() as stop, log, files, writing() as writer:
        stop.alone = world.size == 1
        precision = "" if loop.amp is None else f", computed in {str(loop.amp).removeprefix('torch.')}"
        log.say(f"{title}{precision} -> {folder}")
        safety = Safety(
            stop,
            world,
            due,
            restore,
            lambda task: spread(task, world),
            folder,
            f"vitral replay {shlex.quote(str(folder))}",
        )
        at = fit(
            task,
            batches,
            validation,
            optimizers,
            loop,
            log,
            save,
            ema=ema,
            resume=resume,
            watch=watch,
            plain=plain,
            safety=safety,
        )
        stop.check()
    return at


def resumed_state(
    checkpoints: Path, tell: Callable[[str], object], world: World = ALONE, *, well: bool = False
) -> dict[str, Any] | None:
    """The state in the newest checkpoint of a run that is whole, the same for every process; with `well` the newest
    that was saved while no step was left out. None where there is none. Raises UserError where none is whole."""
    own: list[dict[str, Any]] = []

    def find() -> Path | None:
        found = newest_intact(checkpoints, tell, lambda state: not (well and state["progress"].get("bad")))
        if found is None:
            return None
        own.append(found[1])
        return found[0]

    place = world.on_main(find)
    if place is None:
        return None
    return own[0] if own else load_trainer(place)


@contextmanager
def writing() -> Iterator[BackgroundWriter]:
    """A writer, whose work is done at the end, unless nobody wants to wait for it."""
    writer = BackgroundWriter()
    try:
        yield writer
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # Stopped: the last checkpoint is what it is for
            writer.close()
        raise
    except BaseException:
        writer.finish()
        raise
    else:
        writer.close()
