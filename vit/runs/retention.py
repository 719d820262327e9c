"""Which checkpoints a run keeps, and which of them it can go on from: "best", "last" and those before it, step-N."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.errors import UserError
from vit.runs.checkpoint import CONFIG, TRAINER, earlier, load_trainer, save_checkpoint, verify


def save_last(
    checkpoints: Path,
    weights: dict[str, Tensor] | None,
    config: dict[str, Any],
    trainer: dict[str, Any],
    keep: int,
    shards: Path | None = None,
) -> None:
    """Write "last" and keep the newest `keep`, this one among them; config has an entry `step`. shards: as in
    `save_checkpoint`. Raises UserError when the disk refuses: no checkpoint is lost then."""
    last = checkpoints / "last"
    aside = _aside(last) if keep > 1 else None
    if aside is not None and aside.name == f"step-{config['step']}":
        aside = None  # the same once more
    if aside is not None and aside.exists():  # of a run that went back to before it
        _remove(aside)
    save_checkpoint(last, weights, config, trainer, aside=aside, shards=shards)
    for folder in (*earlier(checkpoints)[keep - 1 :], *checkpoints.glob("step-*.old")):
        _remove(folder)


def newest_whole(
    checkpoints: Path,
    tell: Callable[[str], object],
    wanted: Callable[[dict[str, Any]], bool] = lambda state: True,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole and whose state, what `engine.fit` goes on from, is `wanted`.

    One that is damaged is told of and put aside. None where there is no checkpoint at all. Raises UserError where there
    are some and none will do.
    """
    told: list[str] = []
    for folder in candidates(checkpoints):
        try:
            verify(folder)
            state = load_trainer(folder)
        except UserError as error:
            told.append(str(error))
            damaged = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            os.rename(folder, damaged)
            continue
        if not wanted(state):
            continue
        if told:
            tell(f"Warning: {' '.join(told)} Going on from {folder.name}, which is whole.")
        return folder, state
    if told:
        raise UserError(f"no checkpoint of this run is whole: {' '.join(told)} It has to be started anew.")
    return None


def candidates(checkpoints: Path) -> Iterator[Path]:
    """Checkpoints that can be resumed from, the newest first, whole or not."""
    last = checkpoints / "last"
    for folder in (last, *earlier(checkpoints), last.with_name("last.old")):
        if (folder / CONFIG).is_file() or (folder / TRAINER).is_file():
            yield folder


def _aside(last: Path) -> Path | None:
    """The name that "last" has once there is a newer one."""
    try:
        step = json.loads((last / CONFIG).read_text(encoding="utf-8"))["step"]
        return last.with_name(f"step-{int(step)}")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(folder: Path) -> None:
    """Under another name first, so that half a checkpoint is never taken for one."""
    gone = folder if folder.name.endswith(".old") else folder.with_name(folder.name + ".old")
    if gone != folder:
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
