"""A data set as used in training: its splits, its classes, and a record for reopening it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vit.data.sets.imageset import ImageSet

Kind = Literal["labels", "boxes"]
BUNDLED: dict[str, Kind] = {"digits": "labels", "scenes": "boxes"}
"""The bundled data sets, by source name."""
REMOTE = ("hf:", "torchvision:")
"""Prefixes of sources that are not paths."""


def place_of(source: str) -> str:
    """Make a source independent of the current folder."""
    if source in BUNDLED or source.startswith(REMOTE):
        name, sign, folder = source.partition("@")  # torchvision:NAME@FOLDER
        return f"{name}@{place_of(folder)}" if sign and source.startswith("torchvision:") else source
    return os.path.abspath(os.path.expanduser(source))


def record_of(sets: Mapping[str, ImageSet], source: str, seed: int | None, rule: str) -> dict[str, Any]:
    """Plain values for the run folder. rule: what determined the splits."""
    splits = {name: {"images": len(images), "names": images.fingerprint()} for name, images in sets.items()}
    return {"source": place_of(source), "seed": seed, "rule": rule, "splits": splits}


@dataclass(kw_only=True)
class Splits:
    """Common fields of both kinds of data set.

    notes: messages for the user, a line or a small table each.
    record: plain values for the run folder, from which `vit.data.open.reopen` restores the same splits.
    """

    train: Any
    val: Any
    test: Any
    classes: tuple[str, ...]
    source: str
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def splits(self) -> dict[str, Any]:
        """The nonempty splits, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: images for name, images in named.items() if images is not None and len(images)}


@dataclass(kw_only=True)
class Data(Splits):
    """Images with labels. `train` is empty if there is none."""

    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None
    multilabel: bool

    @classmethod
    def of(cls, sets: Mapping[str, ImageSet], source: str, *, notes: list[str], seed: int | None, rule: str) -> Data:
        """From the splits that a reader found; all have the same classes."""
        some = next(iter(sets.values()))
        return cls(
            train=sets["train"] if "train" in sets else some.select(np.empty(0, np.int64)),
            val=sets.get("val"),
            test=sets.get("test"),
            classes=some.classes,
            multilabel=some.multilabel,
            source=source,
            notes=notes,
            record=record_of(sets, source, seed, rule),
        )

    def splits(self) -> dict[str, ImageSet]:
        return super().splits()


@dataclass(kw_only=True)
class DetectionData(Splits):
    """Images with boxes. `train` is None if there is none."""

    category_ids: tuple[int, ...]
    """Each class's id in the source's files; predictions are written with these ids."""

    @classmethod
    def of(
        cls,
        sets: Mapping[str, ImageSet],
        source: str,
        *,
        category_ids: Sequence[int],
        notes: list[str],
        seed: int | None,
        rule: str,
    ) -> DetectionData:
        """From the splits that a reader found; all have the same classes."""
        return cls(
            train=sets.get("train"),
            val=sets.get("val"),
            test=sets.get("test"),
            classes=next(iter(sets.values())).classes,
            category_ids=tuple(category_ids),
            source=source,
            notes=notes,
            record=record_of(sets, source, seed, rule) | {"category_ids": list(category_ids)},
        )
