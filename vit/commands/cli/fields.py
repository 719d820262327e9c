"""The fields of a frozen dataclass as options: their names, values and defaults.

Types of a field: str, int, float, Path, bool (a flag), Literal, any of them with `| None`, and tuple[X, ...], which may
be repeated. A field marked `Positional` is a positional argument.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vit.commands.cli import aliases
from vit.errors import UserError, nearest


class Positional(NamedTuple):
    """Annotation of a positional argument: Annotated[str, Positional("CHECKPOINT")]."""

    metavar: str


@dataclass(frozen=True)
class Option:
    """A field as an option of the command line."""

    field: str
    default: Any
    """MISSING if the option is required."""
    kinds: tuple[type, ...]
    """Types among str, int, float, Path, bool; the first that accepts the text gives the value."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """Whether None is allowed."""
    many: bool = False
    metavar: str | None = None
    """Name of a positional argument in the usage; None for an option."""

    @property
    def flag(self) -> bool:
        return self.kinds == (bool,)

    @property
    def required(self) -> bool:
        return self.default is MISSING and not (self.many and self.metavar)

    @property
    def none(self) -> tuple[str, ...]:
        """("None",) if None is allowed and is not the default."""
        return ("None",) if self.optional and self.default not in (None, MISSING) else ()

    def __str__(self) -> str:
        return self.metavar or aliases.option(self.field)

    def value(self, text: str) -> Any:
        """The value of `text`. Raises UserError, which names the allowed values."""
        if text in self.choices:
            return text
        if self.optional and text == "None":
            return None
        for kind in self.kinds:
            try:
                return kind(text)
            except ValueError:
                pass
        raise UserError(f"{self} does not take {text!r}.\nIt takes {self.expected}.{nearest(text, self.choices)}")

    @property
    def expected(self) -> str:
        """The allowed values in words: "a whole number or auto"."""
        words = {int: "a whole number", float: "a number", Path: "a path", str: "text"}
        listed = [*(words[kind] for kind in self.kinds), *self.choices, *self.none]
        return " or ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))


def options_of(kind: type, base: Any = None, hidden: Collection[str] = ()) -> dict[str, Option]:
    """The options of a dataclass by field name; positional ones first."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        if field.name in hidden or not field.init:
            continue
        default = getattr(base, field.name) if base is not None else field.default
        found.append(Option(field.name, default, **described(hints[field.name])))
    return {option.field: option for option in sorted(found, key=lambda option: option.metavar is None)}


def described(hint: Any) -> dict[str, Any]:
    """The fields of Option that follow from a type."""
    facts: dict[str, Any] = {}
    if hasattr(hint, "__metadata__"):
        metavars = [extra.metavar for extra in hint.__metadata__ if isinstance(extra, Positional)]
        facts["metavar"] = metavars[0] if metavars else None
        hint = hint.__origin__
    if typing.get_origin(hint) is tuple:
        facts["many"], hint = True, typing.get_args(hint)[0]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    facts["optional"] = type(None) in parts
    facts["choices"] = tuple(c for part in parts if typing.get_origin(part) is Literal for c in typing.get_args(part))
    kinds = [part for part in parts if isinstance(part, type) and part is not type(None)]
    order = (bool, int, float, Path, str)  # the narrowest type is tried first
    unknown = set(kinds) - set(order)
    assert not unknown, f"an option cannot be of the type {unknown}"
    facts["kinds"] = tuple(sorted(kinds, key=order.index))
    return facts


def shown_kind(option: Option) -> str:
    """The placeholder of a value: N for a whole number, X for a number, the choices, or the name in capitals."""
    if option.flag:
        return ""
    letters = {int: "N", float: "X"}
    kinds = (letters.get(kind, option.field.upper()) for kind in option.kinds)
    return "|".join((*kinds, *option.choices, *option.none))


def usage(options: dict[str, Option], prog: str) -> str:
    """The usage line: required arguments, in order."""
    needed = [str(option) if option.metavar else f"{option} {shown_kind(option)}" for option in positionals(options)]
    return " ".join(["Usage:", prog, *needed, "[options]"])


def positionals(options: dict[str, Option]) -> Iterator[Option]:
    yield from (option for option in options.values() if option.metavar is not None or option.required)
