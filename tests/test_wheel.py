"""What somebody gets who installs the wheel alone: it trains, evaluates, predicts and checks data."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clones import clone

ROOT = Path(__file__).parent.parent
SHORT = "import vit.data.bundled.scenes as s; s.COUNTS = {'train': 16, 'val': 4, 'test': 4}; import vit.__main__ as m; "


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. Built from a copy: the working tree stays as it is."""
    place = tmp_path_factory.mktemp("wheel")
    source = clone(place / "source")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, source]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = place.glob("*.whl")
    return file


def test_the_wheel_holds_vit_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        entry = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vit"}
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "vit").rglob("*.py")}
    data = [file for file in (ROOT / "datasets").rglob("*") if file.is_file()]
    shipped = {f"vit/data/bundled/files/{file.relative_to(ROOT / 'datasets')}" for file in data}
    assert {name for name in names if name.startswith("vit/")} == code | shipped
    assert any(name.endswith("LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata and "Name: vitral" in metadata
    assert "vitral = vit.__main__:main" in entry


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel and, through a path file, what it depends on; `.run(*words)` runs there in an
    empty folder. The path file brings packages, not the clone: installs in place have path files of their own, which
    Python does not follow from there."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    packages = subprocess.check_output(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
    ).strip()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (place / "empty").mkdir()
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words):
        command = [python, *map(str, words)]
        done = subprocess.run(command, cwd=place / "empty", env=clean, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run, place / "empty"


@pytest.mark.slow
def test_the_wheel_trains(environment):
    run, place = environment
    home = run("-c", "import vit; print(vit.__file__)")
    assert "environment" in home and str(ROOT) not in home
    rng = np.random.default_rng(0)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (place / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(rng.normal(color, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{i}.png")
    run("-m", "vit", "train", "digits", "--epochs", "2", "--out", "r", "--device", "cpu")
    assert "top-1" in run("-m", "vit", "eval", "r")
    assert " %" in run("-m", "vit", "predict", "r", "photos/red/0.png")
    run("-m", "vit", "data", "check", "photos")
    run("-m", "vit", "train", "folder", "--data", "photos", "--epochs", "1", "--out", "f", "--device", "cpu")
    assert "digits" in run("-m", "vit", "data", "list")
    run("-c", SHORT + "m.main(['train', 'scenes', '--epochs', '1', '--out', 's', '--device', 'cpu'])")
    assert json.loads((place / "s" / "report.json").read_text())["task"] == "detection"


def test_import_datasets_in_the_clone_gives_the_installed_package(tmp_path):
    """Our folder `datasets` holds no Python: a package of that name wins, wherever it stands on the path."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("theirs = True")
    code = f"import sys; sys.path.append({str(tmp_path)!r})\nimport datasets, vit\nassert datasets.theirs, vit"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_transformers_and_vit_work_in_one_process():
    pytest.importorskip("transformers")
    code = (
        "import torch, vit\nfrom transformers import ViTConfig, ViTModel\n"
        "model = ViTModel(ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=2))\n"
        "model(torch.zeros(1, 3, 224, 224))\n"
        "vit.create('vit_nano8', num_classes=2, image_size=16)(torch.zeros(1, 3, 16, 16))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
