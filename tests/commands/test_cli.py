import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vit.__main__ as cli
from vit.errors import UserError

ROOT = Path(__file__).parents[2]


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def test_import_is_light():
    """`import vit` adds nothing to `import torch`, and neither help nor a mistake waits for torch."""
    done = python(
        "-c",
        "import sys, vit, vit.__main__; vit.__version__; "
        "print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib', 'torchmetrics') if m in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_version_and_help(capsys):
    assert cli.command(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "vitral" and version
    try:
        assert version == importlib.metadata.version("vitral")
    except importlib.metadata.PackageNotFoundError:
        assert version == "0+unknown"
    with pytest.raises(SystemExit) as stopped:
        cli.command(["predict", "--help"])
    assert stopped.value.code == 0 and "--top" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest():
    """FAULTS 59."""
    with pytest.raises(UserError, match='Did you mean "predict"'):
        cli.command(["predit", "x"])


@pytest.mark.parametrize("arguments", [["predict", "c", "i", "--tpo", "3"], ["predict"], ["--verison"], []])
def test_a_misspelt_option_exits_2(arguments: list[str], capsys):
    """FAULTS 59."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    if "--tpo" in arguments:
        assert "--top" in capsys.readouterr().err


def test_predict_prints_a_line_an_image(trained: SimpleNamespace, capsys):
    folder = trained.photos / "test" / "grün"
    assert cli.command(["predict", str(trained.run), str(folder), "--top", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for i, line in enumerate(lines):
        path, answer = line.rsplit(": ", 1)
        assert path == str(folder / f"tile {i}.png")
        assert answer.count("%") == 2 and answer.startswith("red wine" if i == 4 else "grün")


def test_json_goes_on_after_unreadable_images(trained: SimpleNamespace, tmp_path: Path, capsys):
    shutil.copytree(trained.photos / "test", tmp_path / "in", dirs_exist_ok=True)
    (tmp_path / "in" / "grün" / "tile 1.png").write_bytes(b"no image")
    (tmp_path / "in" / "grün" / "TILE 9.PNG").write_bytes((tmp_path / "in" / "grün" / "tile 0.png").read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    code = cli.command(
        ["predict", str(trained.run), str(tmp_path / "in"), "--json", "--batch-size", "4", "--device", "cpu"]
    )
    printed = capsys.readouterr()
    answers = json.loads(printed.out)
    assert code == 1 and len(answers) == 16
    assert len(printed.out.splitlines()) == 17  # one line an object, and the closing bracket
    assert [Path(answer["source"]).name for answer in answers if "error" in answer] == ["tile 1.png"]
    assert "tile 1.png" in printed.err and "1 of 16 images" in printed.err
    assert [a["label"] for a in answers if Path(a["source"]).parent.name == "bluish"] == ["bluish"] * 4 + ["grün"]


def test_nothing_readable_exits_2(trained: SimpleNamespace, tmp_path: Path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert cli.command(["predict", str(trained.run), str(tmp_path / "a.png"), "--json", "--device", "cpu"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)[0]


def test_mistakes(trained: SimpleNamespace, tmp_path: Path):
    image = str(trained.photos / "test" / "grün" / "tile 0.png")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(trained.run)], "No images given"),
        ([str(trained.run), image[:-1]], r'no such file or folder .* Did you mean "tile 0.png"'),
        ([str(trained.run), str(tmp_path / "empty")], "no images in this folder"),
        ([str(tmp_path / "nowhere"), image], "does not exist"),
        ([str(trained.run), image, "--top", "0"], "at least 1"),
        ([str(trained.run), image, "--device", "gpu"], "cannot be used here"),
    ):
        with pytest.raises(UserError, match=message):
            cli.command(["predict", *arguments])


def test_as_a_user_types_it(trained: SimpleNamespace):
    """In a process of its own; that one also says what it imported."""
    image = trained.photos / "test" / "bluish" / "tile 0.png"
    done = python("-X", "importtime", "-m", "vit", "predict", trained.run, image, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["label"] == "bluish"
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "torch" in imported
    # Each would take seconds that a prediction does not need.
    assert not imported & {"torchmetrics", "torchvision", "matplotlib", "datasets", "timm"}


def test_a_mistake_is_one_message():
    done = python("-m", "vit", "predict", "run", "nowhere.png")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: nowhere.png") and len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_error(trained: SimpleNamespace):
    if os.name != "posix":
        pytest.skip("needs a POSIX shell")
    line = f"{sys.executable} -m vit --version | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
