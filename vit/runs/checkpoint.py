"""Checkpoint folders: model.safetensors, config.json and, for resuming, trainer.pt.

A folder is written under a temporary name, flushed to the disk and renamed: at every moment either the previous
or the new checkpoint is complete. SHA256SUMS, which `sha256sum -c` reads, reveals later damage; config.json, which
people edit, is not listed in it. No pickle is trusted: `trainer.pt` holds tensors and plain containers only.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vit.errors import UserError, error_context, nearest
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.model.unfilled import fill, slots, unfilled
from vit.runs.tensors import first_line, fit_tensors, load_tensors
from vit.typed import check

FORMAT = 1
WEIGHTS, CONFIG, TRAINER, SUMS = "model.safetensors", "config.json", "trainer.pt", "SHA256SUMS"
SHARDS = "sharded"
"""A folder that replaces the weights and most of the trainer, where no single process held all of them."""
ENTRIES = {
    "task": str,
    "classes": list[str],
    "preprocess": dict[str, Any],
    "multilabel": bool,
    "temperature": float | None,
    "augment": dict[str, float],
    "data": dict[str, Any],
    "category_ids": list[int],
    "threshold": float | None,
    "class_thresholds": dict[str, float] | None,
}
"""Types of the entries of config.json; the first three are always there."""
RECORD = {"source": str, "seed": int, "splits": dict[str, dict[str, Any]]}
"""Types of the entries that `data`, the record of the training data, must have."""


class _HasClasses(Protocol):
    @property
    def num_classes(self) -> int: ...


_Config = TypeVar("_Config", bound=_HasClasses)
_Model = TypeVar("_Model", bound=nn.Module)


def save_checkpoint(
    folder: Path,
    weights: dict[str, Tensor] | None,
    config: dict[str, Any],
    trainer: dict[str, Any] | None = None,
    *,
    aside: Path | None = None,
    shards: Path | None = None,
) -> None:
    """Write a checkpoint folder so that a crash at any moment leaves this or the previous checkpoint complete.

    aside: the previous checkpoint is moved there; None removes it. shards: a folder that is moved into the checkpoint,
    in place of `weights`. Raises UserError when writing fails; the previous checkpoint then stays, and no temporary
    file.
    """
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        if shards is not None:
            os.rename(shards, new / SHARDS)
        if weights is not None:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, new / WEIGHTS)
        text = json.dumps({"format": FORMAT, **config}, indent=1, ensure_ascii=False)
        (new / CONFIG).write_text(text, encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, new / TRAINER)
        names = [*(name for name in (WEIGHTS, TRAINER) if (new / name).exists()), *_shards(new)]
        sums = [f"{_sum(new / name)}  {name}\n" for name in names]
        (new / SUMS).write_text("".join(sums), encoding="ascii")
        for file in (*new.iterdir(), *(new / name for name in _shards(new)), new):
            _flush(file)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old if aside is None else aside)
        os.rename(new, folder)
        _flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"{folder}: the checkpoint could not be written ({error}). The previous one is kept.") from None


def verify(folder: Path) -> None:
    """Raises UserError if a file does not match SHA256SUMS. A checkpoint without SHA256SUMS is not checked."""
    file = folder / SUMS
    if not file.exists():
        return
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if name not in (WEIGHTS, TRAINER) and Path(name).parts != (SHARDS, Path(name).name):
            raise UserError(f"{file} is damaged.")
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}.")
        if _sum(folder / name) != expected:
            raise UserError(
                f"{folder / name} is damaged: it does not match {SUMS} beside it. If the file was changed on purpose, "
                f"remove {SUMS}."
            )


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder of `path`: itself, or a run's `checkpoints/best`, `last` or newest earlier one.

    Raises UserError if there is none.
    """
    path, halves = Path(path).expanduser(), []
    for folder in (
        path,
        path / "checkpoints" / "best",
        path / "checkpoints" / "last",
        *earlier_checkpoints(path / "checkpoints"),
    ):
        # A crash between two renames leaves the previous checkpoint under its ".old" name.
        for candidate in (folder, folder.with_name(folder.name + ".old")):
            missing = [name for name in (WEIGHTS, CONFIG) if not (candidate / name).is_file()]
            if not missing:
                return candidate
            if (candidate / SHARDS).is_dir():
                raise UserError(f"{candidate} is sharded. Join it first: vitral gather {candidate} OUT.")
            halves += [f"{candidate} has no {missing[0]}"] if len(missing) == 1 else []
    if not path.exists():
        near = nearest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise UserError(f"Checkpoint {path} does not exist (current folder: {Path.cwd()}).{near}")
    if path.is_file():
        raise UserError(f"{path} is a file; a checkpoint is a folder with {WEIGHTS} and {CONFIG}, or a run folder.")
    why = "; ".join(halves) or f"{WEIGHTS} and {CONFIG} are missing"
    raise UserError(f"{path} holds no checkpoint: {why}. Give a run folder or a checkpoint folder.")


def earlier_checkpoints(checkpoints: Path) -> list[Path]:
    """The checkpoints step-N of a run, the newest first."""
    found = [(int(folder.name[5:]), folder) for folder in checkpoints.glob("step-*") if folder.name[5:].isdecimal()]
    return [folder for _, folder in sorted(found, reverse=True)]


def load_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder. Raises UserError if it is missing or damaged."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}.") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{file} does not describe a model.")
    if config.get("format") != FORMAT:
        raise UserError(f"{file} has format {config.get('format')}; this version of vitral reads format {FORMAT}.")
    with error_context(file):
        for key in ("task", "classes", "preprocess"):
            if key not in config:
                raise UserError(f"The entry {key} is missing.")
        for key, hint in ENTRIES.items():
            if key in config:
                check(config[key], hint, key)
        for key, hint in RECORD.items() if "data" in config else ():
            check(config["data"].get(key), hint, f"data.{key}")
        Preprocess.from_dict(config["preprocess"])
    return config


def set_config(folder: Path, **values: Any) -> None:
    """Change entries of a checkpoint's config.json, all or none of them."""
    new = folder / (CONFIG + ".new")
    text = json.dumps({**load_config(folder), **values}, indent=1, ensure_ascii=False)
    new.write_text(text, encoding="utf-8")
    _flush(new)
    os.replace(new, folder / CONFIG)


def load_model(path: str | Path, task: str = "classification") -> tuple[Classifier, dict[str, Any]]:
    """A checkpoint or run folder of this task -> the model in evaluation mode, and its config.

    Raises UserError, naming the file, when something is missing, damaged or does not fit.
    """
    folder = find_checkpoint(path)
    config = load_config(folder)
    if config["task"] != task:
        raise UserError(f"{folder} is of the task {config['task']}; one of {task} is needed here.")
    return build_model(folder, config, ClassifierConfig.from_dict, Classifier), config


def build_model(
    folder: Path, config: dict[str, Any], read: Callable[[dict[str, Any]], _Config], build: Callable[[_Config], _Model]
) -> _Model:
    """The model of a checkpoint in evaluation mode. `read` makes its config of the entry `model`; `build`, the model.

    Raises UserError, naming the file, if something is missing, damaged or does not fit.
    """
    with error_context(folder / CONFIG):
        own = read(config["model"])
    model = unfilled(lambda: build(own))
    tensors = load_tensors(folder / WEIGHTS)
    fit_tensors(model, tensors, str(folder / WEIGHTS))
    verify(folder)
    named = len(config["classes"])
    if named != own.num_classes:
        raise UserError(f"{folder / CONFIG}: {named} classes are named, the model has {own.num_classes}.")
    fill(slots(model), tensors)
    return model.eval()


def load_trainer(folder: Path) -> dict[str, Any]:
    """The state to resume training: optimizers, step, EMA, best score. Raises UserError if it is missing or damaged."""
    file = folder / TRAINER
    if not file.is_file():
        raise UserError(f"{folder} holds no {TRAINER}. It cannot be resumed, but it can be used as --weights.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {**state, SHARDS: str(folder / SHARDS)} if (folder / SHARDS).is_dir() else state
    except pickle.UnpicklingError:  # its text advises to trust the file
        raise UserError(
            f"{file} cannot be read: it does not hold tensors and plain values. Resume from another checkpoint."
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}. Resume from another checkpoint.") from None


def _shards(folder: Path) -> list[str]:
    return [f"{SHARDS}/{file.name}" for file in sorted((folder / SHARDS).glob("*"))] + (
        [f"{SHARDS}/.metadata"] if (folder / SHARDS / ".metadata").exists() else []
    )


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
