"""Run folders: where a run is stored, the recipe it was started with, and whether it can resume."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from vit.errors import UserError, shown
from vit.processes.world import ALONE, World, restarted
from vit.runs.checkpoint import load_trainer
from vit.runs.lock import lock_folder, parent_of
from vit.runs.retention import newest_intact
from vit.typed import build

ROOT = Path("runs")


def open_run(recipe: Any, world: World = ALONE) -> tuple[Path, dict[str, Any] | None]:
    """The folder of a run, and the state that training resumes from (None: from the start).

    A resumed run is locked at once, a new run when its recipe is written. A run that torchrun or SLURM restarts resumes
    without --resume.

    Raises UserError when a new run would overwrite another, when there is nothing to resume, when another process uses
    the folder, or when the recipe differs from that of the run.
    """
    own: list[Any] = []

    def find() -> tuple[Path, Path | None]:
        folder, found = _opened(recipe)
        own.append(found[1] if found is not None else None)
        return folder, found[0] if found is not None else None

    folder, checkpoint = world.on_main(find)
    if own:
        return folder, own[0]
    return folder, load_trainer(checkpoint) if checkpoint is not None else None


def _opened(recipe: Any) -> tuple[Path, tuple[Path, dict[str, Any]] | None]:
    again = restarted() and _of_this_job(recipe)
    if not (recipe.resume or again):
        folder = Path(recipe.out) if recipe.out else _free(ROOT / recipe.recipe)
        if recipe.data is not None and folder.resolve() == Path(recipe.data).expanduser().resolve():
            raise UserError(f"{folder} holds the data. Choose another --out for the run.")
        if (folder / "config.yaml").exists():
            raise UserError(f"{folder} already holds a run. Add --resume to continue it, or choose another --out.")
        return folder, None
    folder = resumed(recipe)
    changed = differences(read_recipe(folder, type(recipe)), recipe)
    if changed:
        raise UserError(
            f"{folder} was started with other options ({shown(changed)}). Use the same options, or start a new "
            "run from its weights with --weights."
        )
    if not recipe.dry_run:
        lock_folder(folder)
    # None if it was stopped before its first checkpoint.
    return folder, newest_intact(folder / "checkpoints", lambda message: print(message, flush=True))


def _of_this_job(recipe: Any) -> bool:
    """Whether the restarted job has already made its run folder."""
    if recipe.out:
        return (Path(recipe.out) / "config.yaml").exists()
    try:
        return parent_of(_newest(recipe.recipe)) == os.getppid()
    except UserError:
        return False


def resumed(recipe: Any) -> Path:
    """The folder of the run to resume: --out, or the newest run of this recipe. Raises UserError if there is none."""
    folder = Path(recipe.out) if recipe.out else _newest(recipe.recipe)
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} holds no run to resume. Leave out --resume to start one.")
    return folder


def write_recipe(folder: Path, recipe: Any) -> None:
    """Write the recipe into the run folder and lock it. Raises UserError if it cannot be written to or is in use."""
    text = yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)
    lock_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}). Choose another --out.") from None


@contextmanager
def bad_files_listed(folder: Path, loader: Any) -> Iterator[None]:
    """List the images that `loader` could not read, and why, in the run folder, however training ends."""
    try:
        yield
    finally:
        if loader.bad:
            file = folder / "bad_files.csv"
            with file.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([("path", "reason"), *loader.bad])
            print(f"{len(loader.bad)} training images could not be read and were left out: {file}", flush=True)


def read_recipe(folder: Path, kind: type) -> Any:
    """The settled recipe, of class `kind`, of a run. Raises UserError if it cannot be read."""
    file = folder / "config.yaml"
    try:
        return build(kind, yaml.safe_load(file.read_text(encoding="utf-8")), "the recipe")
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file} is not the recipe of a run: {str(error).rstrip('.')}.") from None


def differences(old: Any, new: Any) -> list[str]:
    """ "name: old -> new" for every option that changes what a run computes."""
    ignored = {
        "out",
        "resume",
        "dry_run",
        "device",
        "workers",
        "previews",
        "cache_gb",
        "save_every",
        "keep",
        "recompute",
    }
    return [
        f"{f.name}: {getattr(old, f.name)} -> {getattr(new, f.name)}"
        for f in fields(new)
        if f.name not in ignored and getattr(old, f.name) != getattr(new, f.name)
    ]


def _free(base: Path) -> Path:
    """base, base-2, base-3, ...: the first that does not exist."""
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _newest(name: str) -> Path:
    """The run of this recipe with the newest checkpoint."""
    found = [f for f in (*ROOT.glob(name), *ROOT.glob(f"{name}-*")) if (f / "checkpoints").is_dir()]
    if not found:
        raise UserError(f"{ROOT.absolute()} holds no run of {name!r} to resume. Name its folder with --out.")
    return max(found, key=lambda folder: (folder / "checkpoints").stat().st_mtime)
