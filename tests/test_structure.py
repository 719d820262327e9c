"""The rooms of the house and who may import whom, and promises about the project as a whole."""

import ast
import os
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "vit").rglob("*.py"))
SCRIPTS = ("train.py", "eval.py")

# A line may import the lines above it, never one below; rooms that share a line do not know each other.
ROOMS = (
    ("errors",), ("version",), ("typed",),
    ("images",), ("processes",), ("report",),
    ("model",), ("detector",), ("optim",),
    ("predict",), ("runs",), ("pretrained",),
    ("data",),
    ("tasks",),
    ("training",),
    ("explain", "export", "compress", "serve", "search"),
    ("commands",),
    ("__main__",),
)  # fmt: skip
RANK = {f"vit.{room}": rank for rank, line in enumerate(ROOMS) for room in line}
RANK["vit"] = len(ROOMS)
# What a room may import, where that is less than all above it.
LESS = {
    "vit.images": {"vit.errors", "vit.typed"},
    "vit.processes": {"vit.errors"},
    "vit.report": {"vit.errors"},
    "vit.model": {"vit.errors", "vit.typed"},
    "vit.detector": {"vit.errors", "vit.typed", "vit.model"},
    "vit.optim": {"vit.errors", "vit.model"},
    "vit.data": {"vit.errors", "vit.typed", "vit.images", "vit.processes", "vit.report"},
}


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file) for file in SOURCES}


class Import(NamedTuple):
    name: str
    line: int
    inside: bool
    """In a function."""
    typing: bool
    """For annotations only."""


def imports(file):
    """What a file imports; `from vit.model import layers` imports vit.model.layers."""
    found = []

    def visit(node, inside, typing):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing = True
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES or {node.module}
        found.extend(Import(name, getattr(node, "lineno", 0), inside, typing) for name in names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing)

    visit(ast.parse(file.read_text(encoding="utf-8")), False, False)
    return found


IMPORTS = {module_of(file): imports(file) for file in SOURCES}


def room_of(module):
    return max((room for room in RANK if inside(module, room)), key=len)


def inside(module, package):
    return module == package or module.startswith(package + ".")


def ours(module):
    return [found for found in IMPORTS[module] if inside(found.name, "vit")]


def test_the_graph_sees_what_it_should():
    assert {"torch", "vit.training.judge"} <= {found.name for found in IMPORTS["vit.training.engine"]}
    assert any(found.inside for found in IMPORTS["vit.commands.predict"])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way_through_the_rooms(module):
    here = room_of(module)
    for found in ours(module):
        there = room_of(found.name)
        if there != here:
            assert RANK[there] < RANK[here], f"{module}:{found.line} imports {found.name}"
            assert there in LESS.get(here, RANK), f"{module}:{found.line} imports {found.name}"


def test_there_are_no_circles():
    done, path = set(), []

    def walk(module):
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        path.append(module)
        for found in IMPORTS.get(module, ()):
            if found.name in MODULES - {"vit"} and not found.typing:
                walk(found.name)
        done.add(path.pop())

    for module in sorted(MODULES):
        walk(module)


def test_only_commands_import_what_they_need_when_they_need_it():
    lazy = ("vit", "vit.__main__")
    found = [f"{module}:{each.line} {each.name}" for module in MODULES for each in ours(module) if each.inside]
    assert not [place for place in found if place.split(":")[0] not in lazy and not place.startswith("vit.commands.")]


def test_rooms_are_small():
    for folder in {file.parent for file in SOURCES}:
        assert len(list(folder.glob("*.py"))) <= 16, folder
    assert {file.name for file in ROOT.glob("*.py")} == set(SCRIPTS)
    for script in SCRIPTS:
        assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 25, script


def test_functions_are_short_and_take_few_parameters():
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            place = f"{file}:{node.lineno} {node.name}"
            assert len([name for name in names if name not in ("self", "cls")]) <= 8, place
            assert node.end_lineno - node.lineno < 60 or file.name == "table.py", place


def test_a_classifier_does_not_load_detection():
    for module in MODULES:
        if inside(module, "vit.tasks.classification") or inside(module, "vit.training"):
            assert not [each for each in ours(module) if inside(each.name, "vit.detector")], module
            assert not [each for each in ours(module) if inside(each.name, "vit.tasks.detection")], module


def test_hugging_face_is_never_imported_and_albumentations_in_one_place():
    forbidden = ("transformers", "huggingface_hub", "pytorch_lightning", "lightning", "accelerate", "ultralytics")
    alone = "vit.pretrained.convert.huggingface_process"  # a script, which is run in a process of its own
    assert not [module for module in MODULES for each in IMPORTS[module] if each.name == alone]
    for file in SOURCES:
        for name in {each.name for each in imports(file)}:
            apart = name == "transformers" and module_of(file) == alone
            fetching = inside(name, "huggingface_hub") and module_of(file) in (
                "vit.pretrained.files.fetch",
                "vit.data.store.hub",
            )
            assert fetching or apart or not any(inside(name, other) for other in forbidden), file
            if inside(name, "albumentations"):
                assert module_of(file) == "vit.data.augment.images"


def test_files_are_small_and_hold_one_idea():
    for file in SOURCES:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, f"{file} has more than 300 lines"
        assert file.stem not in ("utils", "util", "helpers", "common", "misc"), file


def python(code, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_vit_loads_nothing_heavy():
    heavy = "('torch', 'torchvision', 'timm', 'albumentations', 'cv2', 'matplotlib', 'numpy', 'datasets')"
    told = python(f"import sys, vit; assert vit.UserError; print([m for m in {heavy} if m in sys.modules])")
    assert told == "[]\n"


def test_importing_vit_takes_less_than_a_second():
    # Of the processor, since others use the machine too; with the start of Python.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python("import vit")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.slow
def test_vit_load_adds_at_most_a_second_to_torch():
    code = (
        "import time, torch; t = time.process_time(); import vit; vit.load, vit.create; print(time.process_time() - t)"
    )
    assert min(float(python(code)) for _ in range(3)) < 1.0


NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network call")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
"""


@pytest.mark.slow
def test_row_62_no_network_on_import_and_in_training(tmp_path):
    code = f"""{NO_NETWORK}
import os, sys, vit
from vit.commands import train
from PIL import Image
vit.load, vit.create
try:
    socket.create_connection(("127.0.0.1", 9))
except AssertionError:
    print("the guard works")
for i in range(20):
    os.makedirs(f"data/{{i % 2}}", exist_ok=True)
    Image.new("RGB", (8, 8), (i, 0, 9 * i)).save(f"data/{{i % 2}}/{{i}}.png")
train.main(["folder", "--data", "data", "--device", "cpu", "--out", "run", "--epochs", "1"])
# Nor does a classifier load what only a detector needs.
print([name for name in sys.modules if name.startswith(("vit.detector", "vit.tasks.detection."))])
"""
    # Without this, albumentations asks the network for its newest version.
    told = python(code, cwd=tmp_path, env={"NO_ALBUMENTATIONS_UPDATE": ""})
    assert "['vit.tasks.detection.recipe']" in told
    assert "the guard works" in told and (tmp_path / "run/report.json").is_file()


def run_tool(*command):
    tool = Path(sysconfig.get_path("scripts")) / command[0]
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_ruff_is_content():
    run_tool("ruff", "check", ".")


@pytest.mark.slow
def test_pyright_is_content():
    run_tool("pyright", "--pythonpath", sys.executable)
