"""The split of a file or folder, from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from vit.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# The names used on the Hugging Face Hub and in published shards, as words within a longer name.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# Delimited by anything that is not a letter: train-00000-of-00003, imagenet1k-train-0042, train2017.
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_WORDS)})(?![a-z])")


def split_of(path: str) -> str | None:
    """train, val or test, from the file's name or else the nearest folder's; None if no name contains a split.

    path: relative to the data, so that folders above it are ignored.
    """
    for part in reversed(PurePath(path).parts):
        found = [_WORDS[match[1]] for match in _WORD.finditer(part.lower())]
        if found:
            return found[0]
    return None


def by_split(paths: Iterable[str], where: str) -> dict[str, list[str]]:
    """{split: its files, sorted by name}, in the order train, val, test; one split "all" if no name contains a split.

    Raises UserError if only some names contain one.
    """
    found: dict[str | None, list[str]] = {}
    for path in sorted(paths):
        found.setdefault(split_of(path), []).append(path)
    if set(found) == {None}:
        return {"all": found[None]}
    if None in found:
        named = next(files for split, files in found.items() if split is not None)
        raise UserError(
            f"{where}: the name of {named[0]} says its split, that of {found[None][0]} says none. Put train, val or "
            "test into every name, or into none."
        )
    return {name: found[name] for name in ("train", "val", "test") if name in found}
