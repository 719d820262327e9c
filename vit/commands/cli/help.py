"""The help of a command: its options in groups, each with a sentence and its default.

The sentence is the docstring below the field. A final "Default: ..." explains a default of None. A dataclass may have a
table GROUPS {group: "field field ..."}, which extends those of its bases; fields in no group come last.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
import shutil
import sys
import textwrap
from dataclasses import MISSING
from typing import Any

from vit.commands.cli.fields import Option, shown_kind, usage

LEFT = 24
"""Width of the column of option names; a longer name has its own line."""
WIDTHS = (60, 100)
_DEFAULT = re.compile(r"\s*\bDefault: (.*)$", re.DOTALL)


def help_of(kind: type, options: dict[str, Option], prog: str, about: str | None = None) -> str:
    """The text for --help. about: what the command does; the docstring of the class if None."""
    width = max(WIDTHS[0], min(WIDTHS[1], shutil.get_terminal_size((WIDTHS[1], 24)).columns))
    told = sentences(kind)
    lines = [usage(options, prog), ""]
    for paragraph in inspect.cleandoc(about or kind.__doc__ or "").split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    for group, names in grouped(kind, options).items():
        lines.append(bold(f"{group.capitalize()}:"))
        for name in names:
            lines += entry(options[name], told.get(name, ""), width)
        lines.append("")
    return "\n".join(lines)


def entry(option: Option, sentence: str, width: int) -> list[str]:
    """The lines of one option."""
    name = str(option)
    if option.flag and option.default is True:
        name = name.replace("--", "--[no-]", 1)
    left = f"  {name} {shown_kind(option)}".rstrip() if option.metavar is None else f"  {name}"
    body = textwrap.wrap(described(option, sentence).strip(), width - LEFT)
    head = [] if len(left) < LEFT - 1 else [left]
    lines = head + [" " * LEFT + line for line in body]
    if not head:
        lines[:1] = [left + lines[0][len(left) :]] if body else [left]
    lines[0] = lines[0].replace(name, bold(name), 1)
    return lines


def described(option: Option, sentence: str) -> str:
    """The sentence of an option, and its default."""
    match = _DEFAULT.search(sentence)
    meaning = match[1] if match else "chosen from the data."
    text = sentence[: match.start()] if match else sentence
    if option.default is MISSING:
        return text if option.metavar else f"{text} Required."
    if option.default is None or option.default == ():
        return f"{text} Default: {meaning}"
    if option.flag:
        return f"{text} Default: on." if option.default else text
    value = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return f"{text} Default: {value}."


def grouped(kind: type, options: dict[str, Option]) -> dict[str, list[str]]:
    """group -> fields, in the order of the help."""
    groups: dict[str, list[str]] = {"arguments": [name for name, option in options.items() if option.metavar]}
    for base in reversed(kind.__mro__):
        for group, names in vars(base).get("GROUPS", {}).items():
            listed = groups.setdefault(group, [])
            listed += [name for name in names.split() if name in options and name not in listed]
    placed = {name for names in groups.values() for name in names}
    groups["other" if placed - set(groups["arguments"]) else "options"] = [n for n in options if n not in placed]
    return {group: names for group, names in groups.items() if names}


def sentences(kind: type) -> dict[str, str]:
    """field -> the docstring below it, on one line; a class overrides its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not object:
            found |= _docstrings(base)
    return found


def _docstrings(kind: type) -> dict[str, str]:
    body: list[Any] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # pyright: ignore
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def bold(text: str) -> str:
    """The text in bold, if stdout is a terminal that supports it."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[1m{text}\033[0m"
