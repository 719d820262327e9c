"""README.md and docs/: what they say is there is there, their commands are understood, and the commands run."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import vit
from benchmarks.__main__ import NAMES
from tests.clones import clone
from vit.commands.cli.table import COMMANDS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, *sorted((ROOT / "benchmarks").glob("*.md")), *(ROOT / n for n in ("CONTRIBUTING.md", "SECURITY.md"))]
MOST_LINES = 150
OTHERS_WEIGHTS = ("timm:", "hf:", "torchvision:", "rf-detr-nano.pth", "weights.safetensors")
"""What a command needs a network for, or a file of somebody else."""
EPOCHS = "3"
"""Of each training run in the slow test, where the command does not say."""


def blocks(page, *languages):
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def command_lines(page, *languages):
    """The commands in the code blocks, one for each `&&`, without comments and the exports of a SLURM script."""
    text = "\n".join(blocks(page, *languages)).replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part and not part.startswith("export ")]


def to_parse(page):
    """Also the commands that stand in the text."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    in_text = re.findall(r"`((?:python|vitral) [^`]+)`", text)
    return [*command_lines(page, "sh", "bash"), *in_text]


PARSED = sorted({line for page in [*LINKED, ROOT / "CHANGELOG.md"] for line in to_parse(page)})


def understood(words):
    """Whether the options and names in a command exist, as the programs themselves judge it; nothing is run."""
    match words:
        case ["vitral" | "python", *_] if words[-1] == "...":
            return understood(words[:-1])
        case ["pip" | "pytest" | "git" | "python3" | "ruff" | "pyright" | "wait" | ".", *_]:
            return True
        case ["srun", *rest]:
            return understood(rest)
        case ["torchrun", *rest]:
            program = next(i for i, word in enumerate(rest) if word in ("-m", "train.py"))
            return understood(["python", *rest[program:]])
        case ["python", "train.py" | "eval.py" as door, *rest]:
            return understood(["vitral", door.removesuffix(".py"), *rest])
        case ["python", "-m", "vit", *rest]:
            return understood(["vitral", *rest])
        case ["python", "-m", "benchmarks"] | ["vitral"]:
            return True
        case ["python", "-m", "benchmarks", name, *rest]:
            assert name in NAMES
            with pytest.raises(SystemExit) as exit:  # an option that does not exist is told before the help
                importlib.import_module(f"benchmarks.{name}").main([*rest, "--help"])
            return exit.value.code == 0
        case ["vitral", name, *rest]:
            return understood_by_vitral(name, rest)
    return False


class Understood(Exception):
    """Raised in place of running a command."""


def understood_by_vitral(name, words):
    """The one place that knows how `vitral` is built: a command's `main` calls `parse` of its module, then works."""
    if name == "data" and not words:
        return True
    full, rest = (f"data {words[0]}", words[1:]) if name == "data" else (name, words)
    if full not in COMMANDS or not rest:  # `vitral predict` is spoken of
        return full in COMMANDS
    module = importlib.import_module(COMMANDS[full].module)
    parse = module.parse

    def parsed(*args, **kwargs):
        parse(*args, **kwargs)
        raise Understood

    with mock.patch.object(module, "parse", parsed), pytest.raises((Understood, SystemExit)) as ended:
        module.main(rest)
    return ended.type is Understood or ended.value.code == 0


def test_the_readme_is_short_and_has_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert blocks(README, "sh")[:2] == ["pip install -e . && python train.py\n", 'pip install -e ".[test]" && pytest\n']


def test_there_are_commands_and_examples_and_every_page_is_linked():
    assert len(PARSED) >= 60 and sum(len(blocks(page, "python")) for page in PAGES) >= 6
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


@pytest.mark.parametrize("line", PARSED)
def test_every_command_is_understood(line):
    assert understood(shlex.split(line.replace("[", "").replace("]", ""))), f"nothing understands {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_name_what_exists(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
        for name in re.findall(r"\bvit\.(\w+)\(", block):
            assert callable(getattr(vit, name))


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link
    for name in re.findall(r"`((?:vit|tests|benchmarks|datasets|docs)/[\w./]+)`", prose):
        if "TASK" not in name and "NAME" not in name:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_in_the_text_exist(page):
    """Each is a field of a recipe or of a command's dataclass."""
    sources = [
        file.read_text(encoding="utf-8")
        for room in ("tasks", "commands")
        for file in (ROOT / "vit" / room).rglob("*.py")
    ]
    fields = {name for source in sources for name in re.findall(r"^    (\w+): ", source, re.MULTILINE)}
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = [span for span in re.findall(r"`([^`]+)`", prose) if not span.startswith("python -m benchmarks")]
    named = {name.replace("-", "_") for span in spans for name in re.findall(r"(?<!\S)--([a-z][\w-]*)", span)}
    assert named - fields - {"requeue", "help", "version"} == set()


def anchors(page):
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_names_every_room():
    tree = README.read_text(encoding="utf-8").split("## Where things are")[1].split("```")[1]
    rooms = {folder.name for folder in (ROOT / "vit").iterdir() if (folder / "__init__.py").is_file()}
    named = set(re.findall(r"(?<![\w/])(\w+)/(?=\s)", tree))
    assert named == rooms | {"vit", "datasets", "benchmarks", "docs", "tests"}
    assert all((ROOT / name).is_file() for name in re.findall(r"\w+\.py", tree))


def write_data(folder):
    """What the pages call photos, boxes and so on: a dozen noisy tiles of each of two colors, some with a square."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((40, 48, 3), np.uint8)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(color, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    shutil.copytree(folder / "photos" / "red", folder / "more")
    for name in ("new.jpg", "seven.png"):
        Image.fromarray(pixels).save(folder / name)
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}]}
    (folder / "boxes" / "train").mkdir(parents=True)
    for i in range(1, 21):
        pixels, width = rng.integers(0, 120, (128, 160, 3), np.uint8), 40 if i % 2 else 12
        left, top = rng.integers(4, 80, 2).tolist()
        pixels[top : top + 40, left : left + width] = 255
        Image.fromarray(pixels).save(folder / "boxes" / "train" / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 160, "height": 128})
        box = {"bbox": [left, top, width, 40], "area": 40 * width, "iscrowd": 0, "category_id": 3 if i % 2 else 7}
        content["annotations"].append({"id": i, "image_id": i, **box})
    Image.fromarray(pixels).save(folder / "scene.png")
    (folder / "boxes" / "train" / "_annotations.coco.json").write_text(json.dumps(content))


def shortened(line):
    """A command as the slow test runs it: few epochs, and this Python and this vitral."""
    words = shlex.split(line)
    trains = words[:2] in (["vitral", "train"], ["python", "train.py"])
    if trains and "--epochs" not in words:
        line += f" --epochs {EPOCHS}"
    python = shlex.quote(sys.executable)
    return re.sub(r"^python", python, re.sub(r"^vitral", f"{python} -m vit", line))


def run_of(words):
    """The run folder that a training command writes."""
    if "--out" in words:
        return words[words.index("--out") + 1]
    recipe = next((word for word in words[2:3] if not word.startswith("-")), "digits")
    return f"runs/{recipe}"


@pytest.mark.slow
def test_the_commands_run_in_this_order(tmp_path):
    """As a reader would type them, page by page from the README on, in a copy of the repository with fewer scenes and
    fewer epochs. What needs a network or the weights of somebody else is left out, with all that stands on its run, and
    so are the benchmarks; a command that several pages have runs once."""
    place = clone(tmp_path / "clone")
    scenes = place / "vit/data/bundled/scenes.py"
    text = scenes.read_text(encoding="utf-8")
    fewer = re.sub(r'"train": \d+, "val": \d+, "test": \d+', '"train": 80, "val": 40, "test": 40', text)
    assert fewer != text
    scenes.write_text(fewer, encoding="utf-8")
    write_data(place)
    missing, ran = set(), set()
    for page in PAGES:
        for line in command_lines(page, "sh"):
            words = shlex.split(line)
            if words[0] in ("pip", "pytest") or line in ran:
                continue
            if any(source in line for source in OTHERS_WEIGHTS) or missing & set(words):
                missing |= {run_of(words)} if words[1] == "train" else set()
                continue
            done = subprocess.run(shortened(line), shell=True, cwd=place, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr and "Warning" not in done.stderr, f"{line}\n{done.stderr}"
            ran.add(line)
            missing -= {run_of(words)} if words[1] in ("train", "train.py") else set()
        examples = [block for block in blocks(page, "python") if not any(name in block for name in OTHERS_WEIGHTS)]
        if examples:
            program = "\n".join(examples)
            done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}\n{program}\n{done.stderr}"
    assert len(ran) >= 30
