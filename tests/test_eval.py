import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vit.command import run
from vit.errors import UserError

ROOT = Path(__file__).parent.parent
evaluation = importlib.import_module("eval")


def evaluated(trained: SimpleNamespace, tmp_path: Path, **options) -> dict:
    args = evaluation.Evaluate(str(trained.run), json=tmp_path / "out.json", device="cpu", **options)
    evaluation.main(args)
    return json.loads((tmp_path / "out.json").read_text())


def test_the_test_split_of_the_training_data(trained: SimpleNamespace, tmp_path: Path, capsys):
    result = evaluated(trained, tmp_path, out=tmp_path / "report")
    # Four of five images of a class show its color, the fifth the next one's: see conftest.py.
    assert (result["task"], result["split"], result["n"]) == ("classification", "test", 15)
    assert result["top1"] == pytest.approx(0.8) and result["top5"] == 1
    assert result["confusion"] == [[4, 1, 0], [0, 4, 1], [1, 0, 4]]
    assert result["macro_f1"] == pytest.approx(0.8)
    assert result["per_class"]["grün"] == {"precision": 0.8, "recall": 0.8, "f1": pytest.approx(0.8), "n": 5}
    assert result["top1_ci95"][0] < 0.8 < result["top1_ci95"][1]
    assert result["temperature"] > 0 and 0 <= result["ece_calibrated"] <= 1 and 0 <= result["ece"] <= 1
    assert result["unreadable"] == []
    assert "80.00 %" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "confusion.png", "mistakes.png"}


def test_neighbors_and_averaged_views_stand_beside(trained: SimpleNamespace, tmp_path: Path, capsys):
    plain = evaluated(trained, tmp_path)
    result = evaluated(trained, tmp_path, tta=True, knn=3, split="val", batch_size=4)
    assert result["n"] == 18 and result["top1"] == pytest.approx(5 / 6)
    assert result["knn"]["k"] == 3 and result["knn"]["memory"] == 36
    assert result["knn"]["top1"] == pytest.approx(5 / 6) and result["tta"]["top1"] == pytest.approx(5 / 6)
    assert "tta" not in plain and "knn" not in plain
    assert "k nearest neighbors" in capsys.readouterr().out


def test_flip_follows_the_recipe(trained: SimpleNamespace):
    def flips(choice: str, config: dict) -> bool:
        return evaluation.flips(evaluation.Evaluate("x", tta_flip=choice), config)

    assert flips("auto", {"augment": {"flip": 0.5}}) and flips("yes", {})
    assert not flips("auto", {"augment": {"flip": 0.0}}) and not flips("auto", {}) and not flips("no", trained.config)


def flat_copy(trained: SimpleNamespace, tmp_path: Path) -> Path:
    """The test split as a folder of its own, DIR/CLASS/*.png."""
    return Path(shutil.copytree(trained.photos / "test", tmp_path / "flat folder"))


def test_a_folder_of_ones_own_is_all_test(trained: SimpleNamespace, tmp_path: Path):
    result = evaluated(trained, tmp_path, data=str(flat_copy(trained, tmp_path)))
    assert result["n"] == 15 and result["top1"] == pytest.approx(0.8)
    assert result["temperature"] is None  # no val to fit it on, and none in the checkpoint


def test_unreadable_images_are_told_and_not_replaced(trained: SimpleNamespace, tmp_path: Path, capsys):
    """FAULTS 32."""
    data = flat_copy(trained, tmp_path)
    broken = data / "grün" / "tile 0.png"
    broken.write_bytes(broken.read_bytes()[:300])
    result = evaluated(trained, tmp_path, data=str(data))
    assert result["n"] == 14 and result["per_class"]["grün"]["n"] == 4
    assert [Path(bad["name"]).name for bad in result["unreadable"]] == ["tile 0.png"]
    assert "1 images, not evaluated" in capsys.readouterr().out
    for file in data.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="none of the 15 images"):
        evaluated(trained, tmp_path, data=str(data))


def test_other_classes_are_named(trained: SimpleNamespace, tmp_path: Path):
    data = flat_copy(trained, tmp_path)
    (data / "grün").rename(data / "green")
    with pytest.raises(UserError, match=r"Only in the data: green\. Only in the checkpoint: grün"):
        evaluated(trained, tmp_path, data=str(data))


def test_a_class_may_be_absent_and_the_numbers_stay_right(trained: SimpleNamespace, tmp_path: Path, capsys):
    data = flat_copy(trained, tmp_path)
    shutil.rmtree(data / "bluish")
    result = evaluated(trained, tmp_path, data=str(data))
    assert result["n"] == 10 and result["confusion"] == [[0, 0, 0], [0, 4, 1], [1, 0, 4]]
    assert result["per_class"]["bluish"]["recall"] is None
    assert "bluish" in capsys.readouterr().err


def test_mistakes_in_the_command(trained: SimpleNamespace, tmp_path: Path):
    flat = str(flat_copy(trained, tmp_path))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "many.csv").write_text("path,labels\na.png,bluish;grün\n")
    for options, message in (
        ({"knn": 5, "data": flat}, "no train split; it has test"),
        ({"knn": 5, "split": "train"}, "would find itself"),
        ({"split": "val", "data": flat}, "Try --split test"),
        ({"batch_size": 0}, "at least 1"),
        ({"data": str(tmp_path / "many.csv")}, "any number of labels"),
        ({"data": str(trained.photos.with_name("ein Ordnr"))}, "ein Ordner"),
        ({"data": str(tmp_path)}, "flat folder"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(trained, tmp_path, **options)
    with pytest.raises(UserError, match="there is no folder"):
        evaluation.main(evaluation.Evaluate(str(trained.run), json=tmp_path / "missing" / "a.json"))


def test_a_misspelt_option_exits_2_with_the_nearest_name():
    """FAULTS 59."""
    command = [sys.executable, ROOT / "eval.py", "run", "--batch-sise", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.sep)
    assert done.returncode == 2 and "--batch-size" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_checkpoint_is_one_message(trained: SimpleNamespace, capsys):
    missing = evaluation.Evaluate(str(trained.run.with_name("colour")))
    with pytest.raises(SystemExit) as stopped:
        run(lambda: evaluation.main(missing))
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: checkpoint") and len(printed.err.splitlines()) == 1
    assert 'Did you mean "colors"' in printed.err
