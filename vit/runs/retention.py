"""Which checkpoints a run keeps ("best", "last" and earlier ones, step-N), and which of them it can resume from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.errors import UserError
from vit.runs.checkpoint import CONFIG, TRAINER, earlier_checkpoints, load_trainer, save_checkpoint, verify


def save_last(
    checkpoints: Path,
    weights: dict[str, Tensor] | None,
    config: dict[str, Any],
    trainer: dict[str, Any],
    keep: int,
    shards: Path | None = None,
) -> None:
    """Write "last" and keep the newest `keep` checkpoints, "last" included; config has an entry `step`. shards: as in
    `save_checkpoint`. Raises UserError when writing fails; no checkpoint is lost then."""
    last = checkpoints / "last"
    aside = _aside(last) if keep > 1 else None
    if aside is not None and aside.name == f"step-{config['step']}":
        aside = None  # the same step again
    if aside is not None and aside.exists():  # from before the run went back to an earlier step
        _remove(aside)
    save_checkpoint(last, weights, config, trainer, aside=aside, shards=shards)
    for folder in (*earlier_checkpoints(checkpoints)[keep - 1 :], *checkpoints.glob("step-*.old")):
        _remove(folder)


def newest_intact(
    checkpoints: Path,
    log: Callable[[str], object],
    accept: Callable[[dict[str, Any]], bool] = lambda state: True,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint whose state `accept` takes, and that state, from which training resumes.

    Damaged checkpoints are logged and renamed. Returns None if there is no such checkpoint; raises UserError if
    some are damaged and none is left.
    """
    damages: list[str] = []
    for folder in candidates(checkpoints):
        try:
            verify(folder)
            state = load_trainer(folder)
        except UserError as error:
            damages.append(str(error))
            damaged = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            os.rename(folder, damaged)
            continue
        if not accept(state):
            continue
        if damages:
            log(f"Warning: {' '.join(damages)} Resuming from {folder.name}, which is intact.")
        return folder, state
    if damages:
        raise UserError(f"Every checkpoint of this run is damaged: {' '.join(damages)} Start the run again.")
    return None


def candidates(checkpoints: Path) -> Iterator[Path]:
    """Checkpoints to resume from, the newest first, damaged or not."""
    last = checkpoints / "last"
    for folder in (last, *earlier_checkpoints(checkpoints), last.with_name("last.old")):
        if (folder / CONFIG).is_file() or (folder / TRAINER).is_file():
            yield folder


def _aside(last: Path) -> Path | None:
    """The name that "last" gets once there is a newer checkpoint."""
    try:
        step = json.loads((last / CONFIG).read_text(encoding="utf-8"))["step"]
        return last.with_name(f"step-{int(step)}")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(folder: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that a partly removed one is never taken for a checkpoint."""
    gone = folder if folder.name.endswith(".old") else folder.with_name(folder.name + ".old")
    if gone != folder:
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
