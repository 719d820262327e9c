"""What the README says is there, and its commands run."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit
from benchmarks.__main__ import NAMES
from tests.clones import clone
from vit.__main__ import command
from vit.commands.cli.table import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK = ("timm:", "hf:")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMAND_LINES = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in re.split(r"\n|&&", block)
    if line.strip() and not line.lstrip().startswith("pip ")
]
IN_TEXT = re.findall(r"`((?:python|vitral) [^`]+)`", README)


def words_of(line):
    return [{"STEP": "5"}.get(word, word) for word in shlex.split(line) if word not in ("[", "]")]


def test_there_are_commands_and_examples():
    assert len(COMMAND_LINES) >= 8 and len(blocks("python")) >= 3


class Understood(Exception):
    pass


def understood(words, monkeypatch):
    """The command takes these words; it stops where it has read them."""
    if "--help" in words or words == ["--version"]:
        try:
            assert command(words) == 0
        except SystemExit as end:
            assert end.code == 0
        return
    name = " ".join(words[: 2 if words[0] == "data" else 1])
    module = importlib.import_module(COMMANDS[name].module)
    if name == " ".join(words):  # a mention
        return
    seam = "drawn" if name == "data show" else "parse"  # show reads options of its own, then those of a recipe
    read = getattr(module, seam)

    def stop(*arguments, **options):
        if seam == "parse":
            read(*arguments, **options)
        raise Understood

    monkeypatch.setattr(module, seam, stop)
    if name == "data show":
        monkeypatch.setattr(module, "recipe_for", lambda data: "folder")  # the data are not there
    with pytest.raises(Understood):
        command(words)


@pytest.mark.parametrize("line", sorted({*COMMAND_LINES, *IN_TEXT}))
def test_every_command_is_understood(line, monkeypatch):
    """Its options exist: nothing is run."""
    match words_of(line):
        case ["pytest", *_]:
            pass
        case ["python", "-m", "benchmarks", name, *words]:
            assert name in NAMES
            with pytest.raises(SystemExit) as exit:  # an option that does not exist is told before the help
                importlib.import_module(f"benchmarks.{name}").main([*words, "--help"])
            assert exit.value.code == 0
        case ["python", "train.py" | "eval.py" as door, *words]:
            understood([door.removesuffix(".py"), *words], monkeypatch)
        case ["vitral", *words]:
            understood(words, monkeypatch)
        case words:
            raise AssertionError(f"nothing understands {words}")


def test_examples_name_what_exists():
    for block in blocks("python"):
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bvit\.(\w+)\(", block):
            assert callable(getattr(vit, name))


def test_the_tree_and_the_links_are_files():
    tree = README.split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"\b\w+(?:\.py|/)(?=\s)", tree))
    assert {"train.py", "encoder.py", "datasets/", "tests/"} <= named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "vit" / name).exists(), name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def write_photos(folder):
    """A dozen noisy tiles of each of two colors."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(color, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
            Image.fromarray(pixels).save(folder.parent / "new.jpg")
    shutil.copytree(folder / "red", folder.parent / "more")
    Image.fromarray(pixels).save(folder.parent / "seven.png")
    Image.fromarray(pixels).save(folder.parent / "scene.png")


def shorten(file, pattern, by):
    text = file.read_text(encoding="utf-8")
    shorter = re.sub(pattern, by, text)
    assert shorter != text
    file.write_text(shorter, encoding="utf-8")


@pytest.mark.slow
def test_the_commands_run_in_this_order(tmp_path):
    """As a reader would type them, in a copy of the repository in which digits take fewer epochs and scenes are fewer:
    they would take ten minutes. What needs a network or the weights of somebody else is left out, and so are the
    benchmarks."""
    place = clone(tmp_path / "clone")
    counts = r'"train": \d+, "val": \d+, "test": \d+'
    shorten(place / "vit/data/bundled/scenes.py", counts, '"train": 80, "val": 40, "test": 40')
    shorten(place / "vit/tasks/classification/recipe.py", r'recipe="digits", data="digits"', r"\g<0>, epochs=2")
    write_photos(place / "photos")
    vitral = f"{shlex.quote(sys.executable)} -m vit"
    ran = 0
    for line in COMMAND_LINES:
        if line == "pytest" or any(source in line for source in (*NETWORK, "weights.safetensors", "runs/deit3")):
            continue
        if any(word.startswith(("DIR", "boxes", "RUN")) for word in words_of(line)):
            continue
        typed = re.sub(r"^vitral", vitral, re.sub(r"^python", shlex.quote(sys.executable), line))
        done = subprocess.run(typed, shell=True, cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
        ran += 1
    assert ran >= 8
    for block in blocks("python"):
        if any(source in block for source in NETWORK):
            continue
        done = subprocess.run([sys.executable, "-c", block], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
