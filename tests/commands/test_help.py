"""Help: grouped, complete, and of a width that terminals have."""

import re
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest

from tests.commands.test_options import CLASSES
from vit.__main__ import command
from vit.commands import train
from vit.commands.cli import help as helps
from vit.commands.cli.fields import options_of
from vit.commands.cli.table import COMMANDS
from vit.commands.gather import Gather
from vit.commands.models import Models
from vit.commands.replay import Replay


@dataclass(frozen=True)
class Base:
    """Train a toy."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "data", "run": "seed out"}

    data: str | None = None
    """What to train on."""
    seed: int = 0
    """Seed of everything."""
    out: str | None = None
    """Run folder. Default: runs/TOY."""
    lr: float = 0.01
    """Learning rate."""


@dataclass(frozen=True)
class Toy(Base):
    """Train a toy."""

    GROUPS: ClassVar[dict[str, str]] = {"run": "previews", "model": "width"}

    width: int = 8
    """Width in tokens, which is a sentence so long that it needs more than the one line that a terminal of so many
    columns has for it."""
    lr: float = 0.02
    previews: bool = True
    """Draw pictures."""
    fast: bool = False
    """Be fast."""


def text_of(base: Toy, monkeypatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return helps.help_of(Toy, options_of(Toy, base), "vitral train toy")


def test_groups_defaults_and_inherited_sentences(monkeypatch):
    text = text_of(Toy(), monkeypatch)
    blocks = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", text, re.MULTILINE))
    assert list(blocks) == ["Data", "Run", "Model", "Other"]
    assert [re.findall(r"^  (--\S+)", block, re.MULTILINE) for block in blocks.values()] == [
        ["--data"], ["--seed", "--out", "--[no-]previews"], ["--width"], ["--lr", "--fast"],
    ]  # fmt: skip
    rows = " ".join(text.split())
    for row in (
        "--data DATA What to train on. Default: chosen from the data.",
        "--seed N Seed of everything. Default: 0.",
        "--out OUT Run folder. Default: runs/TOY.",
        "--lr X Learning rate. Default: 0.02.",
        "--[no-]previews Draw pictures. Default: on.",
        "--fast Be fast.",
    ):
        assert row in rows, row
    assert "Default" not in rows.split("Be fast.")[1]
    assert max(map(len, text.splitlines())) <= 80


def test_what_a_recipe_sets_takes_the_place_of_the_default(monkeypatch):
    text = " ".join(text_of(Toy(out="x", fast=True), monkeypatch).split())
    assert "Run folder. Default: x." in text and "runs/TOY" not in text
    assert "--[no-]fast Be fast. Default: on." in text


@pytest.mark.parametrize(("columns", "widest"), [(20, 60), (90, 90), (300, 100)])
def test_the_width_is_that_of_the_terminal_within_limits(columns, widest, monkeypatch):
    widths = [len(line) for line in text_of(Toy(), monkeypatch, columns).splitlines()]
    assert widest - 12 < max(widths) <= widest


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and text.startswith(f"Usage: vitral {name} ") and text.endswith("\n")


@pytest.mark.parametrize("kind", [*CLASSES.values(), Gather, Models, Replay], ids=lambda kind: kind.__module__)
def test_every_option_has_a_sentence_that_says_what_none_means(kind):
    told = helps.sentences(kind)
    for name, option in options_of(kind, hidden=("recipe",) if "weights" in told else ()).items():
        assert told[name][0].isupper() or told[name].split(":")[0] in option.choices, name
        assert told[name].endswith("."), name
        assert "Default: " in told[name] or option.default not in (None, ()), name


@pytest.mark.parametrize("recipe", train.recipes())
def test_every_option_of_a_recipe_is_in_its_help(recipe, capsys):
    with pytest.raises(SystemExit):
        train.parse([recipe, "--help"])
    text = capsys.readouterr().out
    kind = type(train.recipes()[recipe][1])
    for field in fields(kind):
        typed = f"--{field.name.replace('_', '-')}"
        listed = re.search(rf"^  (--\[no-\]{typed[2:]}|{typed})( |$)", text, re.MULTILINE)
        assert (listed is None) == (field.name == "recipe"), field.name


def test_names_are_bold_on_a_terminal_only(monkeypatch):
    assert "\033[" not in text_of(Toy(), monkeypatch)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[1m--lr\033[0m X" in text_of(Toy(), monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033[" not in text_of(Toy(), monkeypatch)
