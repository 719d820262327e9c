"""What a source is, and who reads it."""

from __future__ import annotations

from datasets.digits import load_digits
from datasets.imageset import Data
from vit.errors import UserError


def open_data(source: str, *, seed: int = 0) -> Data:
    if source == "digits":
        return open_digits()
    raise UserError(f"{source}: unknown")


def open_digits() -> Data:
    sets = load_digits()
    record = {"source": "digits", "seed": None, "rule": "stored", "counts": {k: len(v) for k, v in sets.items()}}
    classes = sets["train"].classes
    return Data(sets["train"], sets["val"], sets["test"], classes, False, "digits", record=record)
