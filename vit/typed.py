"""Plain values from JSON or YAML -> a dataclass, with each value checked against the type of its field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vit.errors import UserError, nearest

T = TypeVar("T")


def build(cls: type[T], values: Any, name: str) -> T:
    """`cls(**values)` of a dataclass. A list may stand for a tuple, a whole number for a float.

    Raises UserError, which calls the values `name`, when `values` is not a mapping, has an unknown field or a value of
    another type, or lacks a field without a default; and whatever `cls` itself raises.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{name} is {values!r}, not a table of fields and values.")
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            hint = nearest(str(key), hints) or " Was it written by a newer vitral?"
            raise UserError(f"{name} has no field {key!r}.{hint}")
        check(value, hints[key], f"{name}.{key}")
    for field in fields(cls):  # pyright: ignore[reportArgumentType]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{name} needs the field {field.name}, {type_name(hints[field.name])}.")
    return cls(**values)


def check(value: Any, hint: Any, name: str) -> None:
    """Raises UserError, which calls the value `name`, unless it has the type `hint`."""
    if not fits(value, hint):
        raise UserError(f"{name} is {value!r}, not {type_name(hint)}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type: a class, None, Any, a Literal, a union, or a tuple, list or dict of these.

    True, False, NaN and infinity do not count as numbers.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(hints) and all(map(fits, value, hints))
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    return value is None if hint in (None, type(None)) else isinstance(value, hint)


def type_name(hint: Any) -> str:
    """A type in words: "a whole number or null"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(type_name(part) for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"a list, each item {type_name(parts[0])}"
        return f"a list of {len(parts)}: {', '.join(type_name(part) for part in parts)}"
    if origin is list:
        return f"a list, each item {type_name(parts[0])}"
    plain = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
    return plain.get(hint, "a table of fields and values")
