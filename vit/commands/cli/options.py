"""The command line of a frozen dataclass: each field is an option, and a mistake is told in two lines.

Types of a field: str, int, float, Path, bool (a flag), Literal, any of them with `| None`, and tuple[X, ...], which may
be repeated. A field marked `Positional` is given by its place. `vit.commands.cli.help` prints what is written here.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import types
import typing
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from vit.commands.cli import aliases
from vit.errors import UserError, nearest

T = TypeVar("T")


class Positional(NamedTuple):
    """Annotation of a field that is given by its place: Annotated[str, Positional("CHECKPOINT")]."""

    metavar: str


@dataclass(frozen=True)
class Option:
    """A field, as it is typed."""

    field: str
    default: Any
    """MISSING where the option must be given."""
    kinds: tuple[type, ...]
    """Of str, int, float, Path, bool; a value is the first that can be made of the text."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """Whether None is a value."""
    many: bool = False
    metavar: str | None = None
    """Where it is given by its place: what the usage calls it."""

    @property
    def flag(self) -> bool:
        return self.kinds == (bool,)

    @property
    def required(self) -> bool:
        return self.default is MISSING and not (self.many and self.metavar)

    @property
    def none(self) -> tuple[str, ...]:
        """("None",) where that is a value other than the default."""
        return ("None",) if self.optional and self.default not in (None, MISSING) else ()

    def __str__(self) -> str:
        return self.metavar or aliases.option(self.field)

    def value(self, text: str) -> Any:
        """What is meant by `text`. Raises UserError, which names what is allowed."""
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
        """The values in words: "a whole number or auto"."""
        words = {int: "a whole number", float: "a number", Path: "a path", str: "text"}
        listed = [*(words[kind] for kind in self.kinds), *self.choices, *self.none]
        return " or ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))


def parse(
    kind: type[T],
    arguments: Sequence[str],
    prog: str,
    *,
    base: T | None = None,
    hidden: Collection[str] = (),
    about: str | None = None,
) -> T:
    """The dataclass that the arguments describe. --help prints every option and raises SystemExit.

    prog: what was typed before the arguments, for messages. base: its values are the defaults, in place of the class's.
    hidden: fields that are no options. about: what the command does; the docstring of the class if None.
    Raises UserError for every mistake.
    """
    options = options_of(kind, base, hidden)
    if not {"-h", "--help"}.isdisjoint(arguments):
        from vit.commands.cli.help import help_of

        sys.stdout.write(help_of(kind, options, prog, about))
        raise SystemExit(0)
    words, values = read(options, arguments, prog)
    refuse_assignments(options, arguments, words, prog)
    values |= placed(options, words, arguments, prog)
    for option in options.values():
        if option.required and option.field not in values:
            raise UserError(f"{prog} needs {option}.\n{usage(options, prog)}; {prog} --help lists all options.")
    return kind(**values) if base is None else dataclasses.replace(base, **values)  # pyright: ignore


def options_of(kind: type, base: Any = None, hidden: Collection[str] = ()) -> dict[str, Option]:
    """The options of a dataclass by the names of their fields; positional ones first."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        if field.name in hidden or not field.init:
            continue
        default = getattr(base, field.name) if base is not None else field.default
        found.append(Option(field.name, default, **described(hints[field.name])))
    return {option.field: option for option in sorted(found, key=lambda option: option.metavar is None)}


def described(hint: Any) -> dict[str, Any]:
    """What a type says of an option: the other fields of Option."""
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
    order = (bool, int, float, Path, str)  # a text is tried as the narrowest first
    unknown = set(kinds) - set(order)
    assert not unknown, f"an option cannot be of the type {unknown}"
    facts["kinds"] = tuple(sorted(kinds, key=order.index))
    return facts


def read(options: dict[str, Option], arguments: Sequence[str], prog: str) -> tuple[list[str], dict[str, Any]]:
    """The words that stand for themselves, and the values of the options given by name."""
    words: list[str] = []
    values: dict[str, Any] = {}
    rest = deque(arguments)
    while rest:
        word = rest.popleft()
        if word == "--":
            words.extend(rest)
            break
        if not is_option(word):
            words.append(word)
            continue
        name, equals, text = word.partition("=")
        option, on = named(options, name, prog)
        if option.flag:
            if equals:
                raise UserError(f"{name} takes no value, but {text!r} follows it.\n{flag_help(option)}.")
            values[option.field] = on
            continue
        if not equals:
            if not rest or is_option(rest[0]):
                raise UserError(f"{name} needs a value.\nIt takes {option.expected}; {prog} --help lists all options.")
            text = rest.popleft()
        value = option.value(text)
        values[option.field] = (*values.get(option.field, ()), value) if option.many else value
    return words, values


def named(options: dict[str, Option], name: str, prog: str) -> tuple[Option, bool]:
    """The option of that name, and what a flag is set to. Raises UserError, with the right name where it is clear."""
    field = name.removeprefix("--").replace("-", "_")
    option = options.get(field)
    if option is not None and option.metavar is None and name.startswith("--"):
        return option, True
    negated = options.get(field.removeprefix("no_"))
    if field.startswith("no_") and negated is not None and negated.flag:
        return negated, False
    told = f"{prog} has no option {name}."
    meant = field if option is not None else aliases.nearest_option(aliases.plain(name), options)
    if meant is None:
        raise UserError(f"{told}\n{prog} --help lists all options.")
    meant, _, value = meant.partition("=")
    if options[meant].metavar is not None:
        raise UserError(f"{told}\nGive {options[meant]} by its place: {usage(options, prog).removeprefix('Usage: ')}")
    raise UserError(f"{told}\nDid you mean {aliases.option(meant, value)}? {prog} --help lists all options.")


def placed(options: dict[str, Option], words: Sequence[str], arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """The values of the positional options."""
    values: dict[str, Any] = {}
    rest = deque(words)
    for option in options.values():
        if option.metavar is not None and option.many:
            values[option.field] = tuple(option.value(word) for word in rest)
            rest.clear()
        elif option.metavar is not None and rest:
            values[option.field] = option.value(rest.popleft())
    if rest:
        raise UserError(f"{prog} does not know what {rest[0]!r} is for.\n{stray(options, rest[0], arguments, prog)}")
    return values


def stray(options: dict[str, Option], word: str, arguments: Sequence[str], prog: str) -> str:
    """What may have been meant by a word that no option takes."""
    before = arguments[list(arguments).index(word) - 1] if word != arguments[0] else ""
    if is_option(before):
        option, _ = named(options, before.partition("=")[0], prog)
        if option.field == "resume" and "out" in options:
            return f"--resume takes no value; the run is what --out names: --out {shlex.quote(word)} --resume."
        if option.flag:
            return f"{before} takes no value. {flag_help(option)}."
    if any(option.metavar for option in options.values()):
        return f"{usage(options, prog)}; {prog} --help lists all options."
    if "data" in options:
        return f"Is it the data? {prog} --data {shlex.quote(word)}"
    return f"It has no option before it; {prog} --help lists all options."


def refuse_assignments(options: dict[str, Option], arguments: Sequence[str], words: Sequence[str], prog: str) -> None:
    """Raises UserError, with the right form, where an option is written as name=value."""
    if not any(aliases.ASSIGNMENT.fullmatch(word) and not os.path.exists(word) for word in words):
        return
    positional = [option.field for option in options.values() if option.metavar is not None]
    right = aliases.rewritten(arguments, options, positional)
    if right is not None:
        raise UserError(f"{prog} takes --name value, not name=value.\nDid you mean {prog} {shlex.join(right)}?")


def usage(options: dict[str, Option], prog: str) -> str:
    """One line: what must be given, and in which order."""
    needed = [str(option) if option.metavar else f"{option} {shown_kind(option)}" for option in positionals(options)]
    return " ".join(["Usage:", prog, *needed, "[options]"])


def positionals(options: dict[str, Option]) -> Iterator[Option]:
    yield from (option for option in options.values() if option.metavar is not None or option.required)


def shown_kind(option: Option) -> str:
    """What stands for a value: N for a whole number, X for a number, the choices, or the name in capitals."""
    if option.flag:
        return ""
    letters = {int: "N", float: "X"}
    kinds = (letters.get(kind, option.field.upper()) for kind in option.kinds)
    return "|".join((*kinds, *option.choices, *option.none))


def flag_help(option: Option) -> str:
    negative = str(option).replace("--", "--no-", 1)
    return f"{option} turns it on, {negative} turns it off"


def is_option(word: str) -> bool:
    """-x and --name, but neither - alone nor a negative number."""
    if not word.startswith("-") or word in ("-", "--"):
        return word == "--"
    try:
        float(word)
    except ValueError:
        return True
    return False
