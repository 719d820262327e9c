"""The command line of a frozen dataclass: each field is an option, and errors have two lines.

`vit.commands.cli.fields` defines the values that a field takes; `vit.commands.cli.help` prints them.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from vit.commands.cli import aliases
from vit.commands.cli.fields import Option, options_of, usage
from vit.errors import UserError

T = TypeVar("T")


def parse(
    kind: type[T],
    arguments: Sequence[str],
    prog: str,
    *,
    base: T | None = None,
    hidden: Collection[str] = (),
    about: str | None = None,
) -> T:
    """Parse the arguments into the dataclass. --help prints every option and raises SystemExit.

    prog: what was typed before the arguments, for messages. base: provides the defaults instead of the class. hidden:
    fields that are not options. about: what the command does; the docstring of the class if None.
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


def read(options: dict[str, Option], arguments: Sequence[str], prog: str) -> tuple[list[str], dict[str, Any]]:
    """The positional words, and the values of the named options."""
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
    """The option of that name, and the value of a flag. Raises UserError, with the right name if it is clear."""
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
    """A suggestion for a word that no option takes."""
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
    """Raise UserError, with the right form, if an option is written as name=value."""
    if not any(aliases.ASSIGNMENT.fullmatch(word) and not os.path.exists(word) for word in words):
        return
    positional = [option.field for option in options.values() if option.metavar is not None]
    right = aliases.rewritten(arguments, options, positional)
    if right is not None:
        raise UserError(f"{prog} takes --name value, not name=value.\nDid you mean {prog} {shlex.join(right)}?")


def flag_help(option: Option) -> str:
    negative = str(option).replace("--", "--no-", 1)
    return f"{option} turns it on, {negative} turns it off"


def is_option(word: str) -> bool:
    """Whether a word is an option: -x and --name, but neither - alone nor a negative number."""
    if not word.startswith("-") or word in ("-", "--"):
        return word == "--"
    try:
        float(word)
    except ValueError:
        return True
    return False
