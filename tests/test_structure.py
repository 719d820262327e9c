"""The import rules of the design, and promises about the project as a whole."""

import ast
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = [*sorted((ROOT / "vit").rglob("*.py")), *sorted((ROOT / "datasets").rglob("*.py"))]
SCRIPTS = (
    "train", "train_parts", "train_detector", "train_detector_parts", "train_replay", "eval", "eval_detector", "show",
)  # fmt: skip
SOURCES = [*OURS, *(ROOT / f"{name}.py" for name in SCRIPTS)]


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file) for file in SOURCES}


def imports(file, *, typing=False):
    """Modules that a file imports, at the top or inside functions; with typing also those for annotations only."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # `from vit import build` imports vit.build.
            deeper = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            found.update(deeper or {node.module})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


GRAPH = {module_of(file): imports(file) for file in SOURCES}


def inside(module, package):
    return module == package or module.startswith(package + ".")


def within(module, package):
    """What `module` imports from `package`."""
    return {name for name in GRAPH[module] if inside(name, package)}


def test_the_graph_sees_what_it_should():
    assert {"vit.build", "vit.engine", "datasets", "torch"} <= GRAPH["train"] | GRAPH["train_parts"]
    assert "datasets.transforms" in GRAPH["datasets.loader"] and "cv2" in GRAPH["datasets.operations"]


def test_vit_never_imports_datasets_nor_the_scripts():
    for file in OURS:
        module = module_of(file)
        if inside(module, "vit"):
            everything = imports(file, typing=True)
            assert not [name for name in everything if inside(name, "datasets") or name in SCRIPTS], module


def test_datasets_imports_three_leaves_of_vit():
    for module in GRAPH:
        if inside(module, "datasets"):
            # A command ends as all commands of the project do.
            more = {"vit.command"} if module == "datasets.__main__" else set()
            assert within(module, "vit") <= {"vit.errors", "vit.image", "vit.decode"} | more, module
    assert within("vit.errors", "vit") == set() and within("vit.command", "vit") == {"vit.errors"}
    assert within("vit.image", "vit") == {"vit.decode", "vit.errors", "vit.typed"}
    assert within("vit.decode", "vit") == within("vit.typed", "vit") == {"vit.errors"}


LAYERS = {
    "vit.config": {"vit.errors", "vit.typed"},
    "vit.position": set(),
    "vit.attend": set(),
    "vit.linear": set(),
    "vit.layers": {"vit.attend", "vit.config", "vit.linear", "vit.position"},
    "vit.patches": {"vit.linear"},
    "vit.encoder": {"vit.config", "vit.errors", "vit.layers", "vit.patches", "vit.position"},
    "vit.classifier": {"vit.config", "vit.encoder", "vit.layers", "vit.linear"},
    "vit.probe": {"vit.classifier"},
    "vit.lora": {"vit.classifier", "vit.errors", "vit.linear"},
    "vit.losses": set(),
    "vit.metrics": set(),
    "vit.tasks": {"vit.losses", "vit.metrics"},
    "vit.muon": set(),
    "vit.optim": {"vit.muon"},
    "vit.boxes": set(),
    "vit.matcher": {"vit.boxes"},
    "vit.detection_losses": {"vit.boxes", "vit.errors", "vit.matcher"},
    "vit.deformable": {"vit.linear"},
    "vit.detector.postprocess": {"vit.boxes", "vit.detection_losses"},
    "vit.detector.pool": {"vit.detector.postprocess"},
    "vit.detector.tiles": {"vit.boxes", "vit.detector.pool", "vit.detector.postprocess"},
    "vit.detector.views": {"vit.boxes", "vit.detection_losses", "vit.detector.pool", "vit.detector.postprocess"},
    "vit.predictor": {"vit.errors", "vit.image"},
    "vit.detector.decoder": {"vit.deformable", "vit.detector.config", "vit.detector.heads", "vit.layers"},
    "vit.signals": {"vit.errors"},
    "vit.distributed": {"vit.errors", "vit.rounds", "vit.signals"},
    "vit.rounds": {"vit.errors"},
    "vit.loop": {"vit.optim"},
    "vit.meter": set(),
    "vit.writer": set(),
    "vit.step": {"vit.distributed", "vit.errors", "vit.loop", "vit.tasks"},
    "vit.safety": {
        "vit.distributed",
        "vit.errors",
        "vit.loop",
        "vit.resumable",
        "vit.runlog",
        "vit.signals",
        "vit.tasks",
        "vit.writer",
    },
    "vit.engine": {
        "vit.distributed",
        "vit.errors",
        "vit.loop",
        "vit.meter",
        "vit.metrics",
        "vit.optim",
        "vit.resumable",
        "vit.runlog",
        "vit.safety",
        "vit.signals",
        "vit.statistics",
        "vit.step",
        "vit.tasks",
        "vit.writer",
    },
    "vit.resumable": {"vit.meter", "vit.optim", "vit.sharded"},
    "vit.sharded": {"vit.distributed", "vit.errors", "vit.optim"},
    "vit.statistics": set(),
}


@pytest.mark.parametrize("module", LAYERS)
def test_layers_import_downwards_only(module):
    assert within(module, "vit") <= LAYERS[module]


def test_the_engine_knows_no_model_and_no_task_but_the_protocol():
    tree = ast.parse((ROOT / "vit/engine.py").read_text(encoding="utf-8"))
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "vit.tasks"
        for alias in node.names
    }
    assert taken == {"Metrics", "Task"}


def test_leaves_are_imported_by_no_part_of_the_core():
    leaves = {
        "vit.predict", "vit.report", "vit.plots", "vit.confusion", "vit.evaluate", "vit.knn", "vit.tta", "vit.__main__",
        "vit.summary", "vit.predict_command", "vit.detection_predict", "vit.detections", "vit.detection_report",
        "vit.detection_pictures", "vit.draw", "vit.gallery", "vit.video", "vit.embed", "vit.features", "vit.files",
        "vit.progress",
    }  # fmt: skip
    for module in [*LAYERS, "vit.checkpoint", "vit.transfer", "vit.build", "vit.runs", "vit.recipes"]:
        assert not within(module, "vit") & leaves, module


def test_classification_does_not_need_detection():
    detection = {"vit.boxes", "vit.matcher", "vit.deformable", "vit.detection", "vit.detector"}
    for module in ["vit.classifier", "vit.tasks", "vit.engine", "vit.build", "vit.predict", "vit.evaluate", "datasets"]:
        assert not within(module, "datasets") & {"datasets.coco", "datasets.open_detection", "datasets.scenes"}, module
        assert not [name for name in GRAPH[module] if any(inside(name, other) for other in detection)], module
    # One door, behind which `vit.load` finds a detector's predictor.
    assert {name for name in GRAPH["vit.predict"] if name.startswith("vit.detect")} == {"vit.detection_predict"}


def test_there_are_no_cycles():
    done, path = set(), []

    def walk(module):
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        path.append(module)
        for name in GRAPH.get(module, ()):
            # The packages' own __init__ only names what is inside.
            if name in MODULES - {"vit", "datasets"}:
                walk(name)
        done.add(path.pop())

    for module in sorted(MODULES):
        walk(module)


def test_hugging_face_is_never_imported_and_albumentations_in_one_place():
    forbidden = ("transformers", "huggingface_hub", "pytorch_lightning", "lightning", "accelerate", "ultralytics")
    alone = "vit.pretrained.huggingface_process"  # a script, which is run in a process of its own
    assert not any(alone in names for names in GRAPH.values())
    for file in SOURCES:
        for name in imports(file, typing=True):
            apart = name == "transformers" and module_of(file) == alone
            fetching = inside(name, "huggingface_hub") and module_of(file) in ("vit.pretrained.fetch", "datasets.hub")
            assert fetching or apart or not any(inside(name, other) for other in forbidden), file
            if inside(name, "albumentations"):
                assert module_of(file) == "datasets.transforms"


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
import os, sys, vit, train, eval, datasets
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
print([name for name in sys.modules if name.startswith("vit.detect") or name in ("vit.matcher", "datasets.coco")])
"""
    # Without this, albumentations asks the network for its newest version.
    told = python(code, cwd=tmp_path, env={"NO_ALBUMENTATIONS_UPDATE": ""})
    assert "['vit.detection_recipes']" in told
    assert "the guard works" in told and (tmp_path / "run/report.json").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in the built wheel. Built from a copy: the working tree stays as it is."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build", "runs", ".*")
    shutil.copytree(ROOT, source, ignore=ignored)
    (source / "README.md").touch()
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, source],
        check=True,
        capture_output=True,
    )
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        metadata = next(archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        entry = next(archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    return names, metadata, entry


def test_the_wheel_holds_vit_and_nothing_else(wheel):
    names, metadata, entry = wheel
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vit"}
    packaged = {name for name in names if name.startswith("vit/")}
    assert packaged == {str(file.relative_to(ROOT)) for file in OURS if inside(module_of(file), "vit")}
    assert any(name.endswith("LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata and "Name: vitral" in metadata
    assert "vitral = vit.__main__:main" in entry


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
