"""The table of tasks holds: a task that only the tests know trains, resumes, evaluates and predicts by the commands."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import tests.regression  # noqa: F401
import vit
from vit.__main__ import command
from vit.errors import Stopped, UserError
from vit.training.log import read_rows
from vit.training.meter import Meter

BRIEF = ["--epochs", "6", "--device", "cpu", "--seed", "1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of 100 images of one gray value each, and that value in 0..1, with noise in the pixels."""
    place, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(0)
    rows = ["path,value"]
    for i, value in enumerate(rng.uniform(0, 1, 100)):
        pixels = np.clip(rng.normal(255 * value, 8, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
        rows.append(f"{i}.png,{value:.6f}")
    (place / "numbers.csv").write_text("\n".join(rows))
    return place / "numbers.csv"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """The run folder of a whole run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert command(["train", "regress", "--data", str(table), "--out", str(folder), *BRIEF]) == 0
    return folder


def test_it_learns_and_reports(run):
    report = json.loads((run / "report.json").read_text())
    assert report["task"] == "regression" and report["split"] == "test" and report["n"] == 20
    assert report["r2"] > 0.5
    scores = [row["r2"] for row in read_rows(run / "metrics.jsonl") if row["phase"] == "val"]
    assert len(scores) == 6 and scores[-1] > scores[0]


def test_a_stopped_run_resumes_to_the_same_bits(run, table, tmp_path, monkeypatch):
    calls, add = [], Meter.add

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, *args)

    words = ["train", "regress", "--data", str(table), "--out", str(tmp_path / "run"), *BRIEF]
    monkeypatch.setattr(Meter, "add", stopped)
    with pytest.raises(Stopped):
        command(words)
    monkeypatch.setattr(Meter, "add", add)
    assert command([*words, "--resume"]) == 0
    name = "checkpoints/best/model.safetensors"
    whole, resumed = load_file(run / name), load_file(tmp_path / "run" / name)
    assert whole.keys() == resumed.keys() and all((whole[key] == resumed[key]).all() for key in whole)
    assert json.loads((run / "report.json").read_text()) == json.loads((tmp_path / "run/report.json").read_text())


def test_eval_agrees_with_the_report(run, tmp_path, capsys):
    assert command(["eval", str(run), "--json", str(tmp_path / "out.json"), "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads((run / "report.json").read_text())
    assert "mean absolute error" in capsys.readouterr().out
    with pytest.raises(UserError, match="--knn is for classifiers and detectors"):
        command(["eval", str(run), "--knn", "3"])


def test_predict_prints_a_number(run, table, capsys):
    capsys.readouterr()
    assert command(["predict", str(run), str(table.parent / "7.png"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(str(table.parent / "7.png"))
    value = vit.load(run, "cpu").predict(table.parent / "7.png").value
    assert out.strip().endswith(f"{value:.4f}")


def test_its_training_images_are_shown(table, tmp_path):
    words = ["data", "show", str(table), "--recipe", "regress", "--out", str(tmp_path / "grid.png"), "--images", "4"]
    assert command(words) == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 300


def test_from_python(table, tmp_path):
    report = vit.train("regress", data=table, out=str(tmp_path / "run"), epochs=1, device="cpu")
    assert vit.evaluate(tmp_path / "run", device="cpu") == report


def test_names_are_taken_once():
    from vit.tasks.table import Row, register

    with pytest.raises(ValueError, match="The task classification already has digits"):
        register(Row("other", "nowhere", ("digits",)))


def test_a_checkpoint_of_an_unknown_task_is_named(run, monkeypatch):
    from vit.tasks.table import TASKS

    monkeypatch.delitem(TASKS, "regression")
    with pytest.raises(UserError, match="'regression'"):
        vit.load(run)
