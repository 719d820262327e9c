"""One way in: every command is found by its name, and a word that is none is answered with what is meant."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from vit.__main__ import command
from vit.commands.cli import elsewhere
from vit.commands.cli.fields import options_of
from vit.commands.cli.table import COMMANDS, overview
from vit.commands.convert import Convert
from vit.commands.eval import Evaluate
from vit.commands.predict import Predict
from vit.errors import UserError
from vit.tasks.classification.recipe import Recipe

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "PIL", "tyro", "rich", "yaml", "vit.tasks", "vit.data", "vit.commands.train"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_names_a_module_with_main(name):
    assert callable(importlib.import_module(COMMANDS[name].module).main)
    assert COMMANDS[name].about.endswith(".")


def test_overviews(capsys):
    assert command(["--help"]) == 0
    text = capsys.readouterr().out
    assert text == overview() + "\n" and all(f"  {name} " in text for name in COMMANDS)
    assert command(["data", "--help"]) == 0
    text = capsys.readouterr().out
    assert "data check" in text and "predict" not in text and "--version" not in text
    for words in ([], ["data"]):  # nothing was asked for
        assert command(words) == 2
        assert "Usage: vitral" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["data"], ["predit"], ["check", "x"], ["data", "pakc"]])
def test_help_and_mistakes_import_no_command(words):
    code = (
        "import sys\nfrom vit.__main__ import main\n"
        f"try: main({words!r})\nexcept SystemExit: print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


WITHOUT_TORCH = [[*name.split(), "--help"] for name in COMMANDS] + [["train", "folder", "--imgsz", "3"]]


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_options_are_known_without_torch(words):
    code = (
        "import sys\nfrom vit.__main__ import main\n"
        f"try: main({words!r})\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("check photos --fast", "vitral data check photos --fast"),
        ("pack a b", "vitral data pack a b"),
        ("split a b", "vitral data split a b"),
        ("show photos", "vitral data show photos"),
        ("list", "vitral data list"),
        ("digits", "vitral train digits"),
        ("detect --data boxes", "vitral train detect --data boxes"),
        ("folder --data 'my photos'", "vitral train folder --data 'my photos'"),
        ("finetune --data x", "vitral train finetune --data x"),
        ("fit", "vitral train"),
        ("val runs/a", "vitral eval runs/a"),
        ("test runs/a", "vitral eval runs/a"),
        ("validate runs/a", "vitral eval runs/a"),
        ("infer runs/a x.png", "vitral predict runs/a x.png"),
        ("features runs/a x.png", "vitral embed runs/a x.png"),
        ("info", "vitral models"),
        ("export runs/a", "vitral convert runs/a"),
        ("help", "vitral --help"),
        ("data validate photos", "vitral data check photos"),
        ("data export a b", "vitral data convert a b"),
        ("detect train data=a.yaml model=y.pt epochs=3", "vitral train detect --data a.yaml --weights y.pt --epochs 3"),
        ("classify train data=photos imgsz=64", "vitral train folder --data photos --image-size 64"),
        ("detect val model=runs/a data=x", "vitral eval runs/a --data x"),
        ("task=detect mode=predict model=best.pt source=a.jpg conf=.3", "vitral predict best.pt a.jpg --threshold .3"),
        ("yolo train data=d.yaml batch=8 half=True", "vitral train detect --data d.yaml --batch-size 8 --amp fp16"),
        ("val model=runs/a data=x", "vitral eval runs/a --data x"),
    ],
)  # fmt: skip
def test_words_that_are_no_command(words, right):
    import shlex

    with pytest.raises(UserError) as raised:
        command(shlex.split(words))
    first, second = str(raised.value).split("\n")
    assert first.startswith("vitral ") and " has no command " in first
    assert second == f"Did you mean {right}?"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian", "has no command 'trian'. Did you mean \"train\"?\nCommands: train, eval, predict, "),
        ("data chekc", "vitral data has no command 'chekc'. Did you mean \"check\"?\nCommands: check, split, "),
        ("xyzzy", "vitral has no command 'xyzzy'.\nCommands: train, "),
        ("benchmark", "python -m benchmarks"),
        ("tests", "Is it data? vitral train folder --data tests"),
    ],
)
def test_misspelt_commands(words, told, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        command(words.split())
    assert told in str(raised.value) and str(raised.value).count("\n") == 1


def test_what_is_meant_exists():
    for meant in [*elsewhere.MEANT.values(), *(f"data {name}" for name in elsewhere.DATA.values())]:
        words = meant.split()
        assert meant.startswith("--") or words[0] in COMMANDS or " ".join(words[:2]) in COMMANDS, meant
    for name, kind in (("predict", Predict), ("eval", Evaluate), ("convert", Convert)):
        assert set(elsewhere.FIELDS[name].split()) <= options_of(kind).keys()
    assert {"data", "weights", "epochs"} <= options_of(Recipe).keys()


@pytest.mark.parametrize("door", ["train.py", "eval.py"])
def test_the_doors_of_a_clone(door, tmp_path):
    """They run from any folder, without an installation."""
    done = subprocess.run([sys.executable, ROOT / door, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: vitral {door[:-3]} "), done.stderr
