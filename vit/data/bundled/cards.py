"""Cards of public data sets: source, contents and license."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from vit.data.bundled.place import FOLDER
from vit.data.sets.data import Kind
from vit.errors import UserError, nearest, shown

FROM_FOLDER = "folder"
"""The source of a data set that is downloaded manually."""
COMES_ALONG = "bundled"
SOURCE = re.compile(rf"{FROM_FOLDER}|{COMES_ALONG}|torchvision:\w+(/\w+)?|hf:[^/@#]+/[^@#]+")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LARGEST = 64 * 2**10
"""Bytes of a card."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One public data set. Fields match the file."""

    name: str
    title: str
    task: Literal["classification", "detection"]
    source: str
    """torchvision:NAME, hf:OWNER/NAME, "folder" (downloaded manually), or "bundled"."""
    splits: dict[str, int]
    """Images in the source's train, val and test splits."""
    classes: int
    license: str
    citation: str
    command: str
    names: list[str] = field(default_factory=list)
    """Class names in order; empty if there are many."""
    homepage: str = ""
    format: str = ""
    """For a folder: a name in `vit.data.formats.TABLE`."""
    layout: str = ""
    """For a folder: the expected files."""
    score: dict[str, float] = field(default_factory=dict)
    """Percent on the test split, measured with `command`."""

    @property
    def kind(self) -> Kind:
        return "boxes" if self.task == "detection" else "labels"


def names() -> list[str]:
    """Names of all cards, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def card(name: str) -> Card | None:
    """The card of a data set; None if there is none. Raises UserError for an invalid card."""
    path = FOLDER / f"{name}.yaml"
    return read_card(path) if NAME.fullmatch(name) and path.is_file() else None


def cards() -> list[Card]:
    return [read_card(FOLDER / f"{name}.yaml") for name in names()]


def read_card(path: Path) -> Card:
    """Read a card. Raises UserError, naming the file, if it is invalid."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"A card of more than {LARGEST:,} bytes.")
        found = _checked(yaml.safe_load(path.read_text(encoding="utf-8")))
        if found.name != path.stem:
            raise UserError(f"The name is {found.name!r}, but the file is called {path.name}.")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, UserError) as error:
        raise UserError(f"{path}: {error}") from None
    return found


def _checked(content: Any) -> Card:
    if not isinstance(content, dict):
        raise UserError("A card is a table of names and values.")
    known = {each.name: each for each in fields(Card)}
    for key in content:
        if key not in known:
            raise UserError(f"There is no field {key!r}.{nearest(str(key), known)} Fields: {', '.join(known)}.")
    optional = ("names", "homepage", "format", "layout", "score")
    missing = [name for name in known if name not in content and name not in optional]
    if missing:
        raise UserError(f"Missing fields: {', '.join(missing)}.")
    for key, value in content.items():
        if not _fits(key, value):
            raise UserError(f"The field {key} cannot be {value!r}.")
    card = Card(**content)
    if card.names and len(card.names) != card.classes:
        raise UserError(f"There are {card.classes} classes and {len(card.names)} names.")
    if len(set(card.names)) < len(card.names):
        raise UserError("The names have one twice.")
    if (card.source == FROM_FOLDER) != bool(card.layout and card.format):
        raise UserError("The fields layout and format go with the source folder, and only with it.")
    return card


def _fits(key: str, value: Any) -> bool:
    """Whether this value is valid for the field."""
    match key:
        case "splits":
            names = ("train", "val", "test")
            return isinstance(value, dict) and "train" in value and _numbers(value, int) and {*value} <= {*names}
        case "score":
            return isinstance(value, dict) and {*value} <= {"top1", "map"} and _numbers(value, int | float)
        case "classes":
            return isinstance(value, int) and value > 0
        case "names":
            return isinstance(value, list) and all(isinstance(name, str) and name for name in value)
        case "task":
            return value in ("classification", "detection")
        case "source":
            return isinstance(value, str) and SOURCE.fullmatch(value) is not None
        case "name":
            return isinstance(value, str) and NAME.fullmatch(value) is not None
        case _:
            return isinstance(value, str) and bool(value.strip())


def _numbers(values: dict[Any, Any], kind: Any) -> bool:
    return all(isinstance(value, kind) and value > 0 for value in values.values())


def table(rows: Iterable[Card]) -> list[str]:
    """Format cards as lines: name, task, images of train, val and test, classes, source, license."""
    head = ("name", "task", "train", "val", "test", "classes", "source", "license")
    cells: list[tuple[str, ...]] = [head]
    for row in rows:
        counts = (f"{row.splits[name]:,}" if name in row.splits else "-" for name in ("train", "val", "test"))
        cells.append((row.name, row.task, *counts, f"{row.classes:,}", row.source, row.license))
    widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
    numbers = range(2, 6)
    return [
        "  ".join(
            text.rjust(width) if k in numbers else text.ljust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def what_is_expected(card: Card) -> str:
    """Instructions for a data set that must be downloaded manually."""
    return (
        f"{card.name}: must be downloaded by hand ({card.homepage}). Put it into a folder {card.name}/ here, with "
        f"{card.layout}; or give another folder with --data DIR. Splits: {shown(list(card.splits))}."
    )
