"""Suggestions for a word that is not a command of vitral: of another tool, renamed, or misspelled."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from vit.commands.cli import aliases
from vit.commands.cli.table import COMMANDS
from vit.errors import UserError, nearest, shown

MEANT = {
    "check": "data check", "pack": "data pack", "split": "data split", "show": "data show", "list": "data list",
    "datasets": "data list",
    "validate-data": "data check",
    "digits": "train digits", "folder": "train folder", "finetune": "train finetune", "probe": "train probe",
    "scenes": "train scenes", "detect": "train detect",
    "fit": "train", "fine-tune": "train finetune", "tune": "train finetune", "linear-probe": "train probe",
    "pretrain": "train folder", "classify": "train folder", "resume": "train folder --resume",
    "val": "eval", "valid": "eval", "validate": "eval", "validation": "eval", "test": "eval", "evaluate": "eval",
    "evaluation": "eval", "score": "eval",
    "infer": "predict", "inference": "predict", "classification": "predict", "label": "predict", "run": "predict",
    "features": "embed", "encode": "embed", "extract": "embed", "embeddings": "embed",
    "info": "models", "model": "models", "zoo": "models", "list-models": "models",
    "export": "convert", "save": "convert",
    "merge": "gather", "consolidate": "gather",
    "help": "--help", "version": "--version",
}  # fmt: skip
"""A word -> what to type after `vitral`."""
TASKS = {"detect": "detect", "classify": "folder"}
"""Ultralytics' tasks, which precede its mode, and our recipes for them."""
MODES = {"train": "train", "val": "eval", "predict": "predict", "export": "convert", "benchmark": "eval"}
FIELDS = {
    "predict": "checkpoint images threshold nms top tta tile out every batch_size device",
    "eval": "checkpoint data split nms tta tile out batch_size workers device",
    "convert": "checkpoint to",
}
"""Options of a mode that other tools also have, by the names of our fields; for train, all options are searched."""
POSITIONAL = ("checkpoint", "images")
DATA = {"validate": "check", "verify": "check", "lint": "check", "stats": "check", "info": "check", "ls": "list",
        "shard": "pack", "export": "convert", "view": "show", "plot": "show", "preview": "show"}  # fmt: skip
"""The same as MEANT for words after `vitral data`."""


def unknown(words: Sequence[str], group: str = "") -> UserError:
    """The error for words after `vitral`, or after `vitral GROUP`, if the first is not a command."""
    word, *rest = words
    prog = " ".join(filter(None, ["vitral", group]))
    told = f"{prog} has no command {word!r}."
    if group:
        if word in DATA:
            return UserError(f"{told}\nDid you mean {shlex.join([*prog.split(), DATA[word], *rest])}?")
        names = [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
        return UserError(f"{told}{nearest(word, names)}\nCommands: {shown(names)}; {prog} --help explains them.")
    if word == "yolo" and rest:
        return unknown(rest) if rest[0] not in COMMANDS else UserError(f"{told}\nDid you mean {respelt(*rest)}?")
    if word == "benchmark":
        return UserError(f"{told}\nBenchmarks are in the repository: python -m benchmarks lists them.")
    if found := ultralytics(words):
        return UserError(f"{told}\nDid you mean {respelt(*found)}?")
    if word in MEANT:
        return UserError(f"{told}\nDid you mean {respelt(MEANT[word], *rest)}?")
    names = [name for name in COMMANDS if " " not in name] + ["data"]
    meant = nearest(word, names)
    if not meant and os.path.exists(word):
        meant = f" Is it data? vitral train folder --data {shlex.quote(word)}"
    return UserError(f"{told}{meant}\nCommands: {shown(names, 20)}; vitral --help explains them.")


def ultralytics(words: Sequence[str]) -> list[str] | None:
    """`detect train data=...` and `task=detect mode=train data=...` -> our command and the words after it."""
    if words[0] in TASKS and len(words) > 1 and words[1] in MODES:
        mode = MODES[words[1]]
        return [f"train {TASKS[words[0]]}" if mode == "train" else mode, *words[2:]]
    if not aliases.ASSIGNMENT.fullmatch(words[0]):
        return None
    pairs = dict(word.split("=", 1) for word in words if aliases.ASSIGNMENT.fullmatch(word))
    mode = MODES.get(pairs.pop("mode", "train"), "train")
    recipe = TASKS.get(pairs.pop("task", ""), "")
    return [
        f"train {recipe}".strip() if mode == "train" else mode,
        *(f"{name}={value}" for name, value in pairs.items()),
    ]


def respelt(command: str, *rest: str) -> str:
    """The command with the words that follow it; name=value becomes --name value."""
    mode = command.split()[0]
    fields = [ours.partition("=")[0] for ours in aliases.FOREIGN]
    known = FIELDS[mode].split() if mode in FIELDS else [f for f in fields if f not in (*POSITIONAL, "source")]
    words = aliases.rewritten(rest, known, [name for name in POSITIONAL if name in known]) or list(rest)
    if command == "train" and rest:
        command += " detect" if any(word.endswith((".yaml", ".yml")) for word in words) else " folder"
    return shlex.join(["vitral", *command.split(), *words])
