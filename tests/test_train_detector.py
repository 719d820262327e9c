"""`train.py scenes` and `eval.py` from end to end, on a few scenes."""

import json
from pathlib import Path

import pytest

from vit.errors import UserError


@pytest.mark.slow
def test_scenes_are_trained_on_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import eval as evaluation
    import train
    from datasets import scenes

    monkeypatch.setattr(scenes, "COUNTS", {"train": 8, "val": 4, "test": 4})
    run = tmp_path / "run"
    train.main(["scenes", "--out", str(run), "--epochs", "1", "--batch-size", "4", "--device", "cpu"])
    report = json.loads((run / "report.json").read_text())
    assert report["task"] == "detection" and report["split"] == "test" and report["n"] == 4
    assert {"map", "map50", "map75", "per_class", "best_threshold"} <= set(report)
    evaluation.main(evaluation.Evaluate(str(run), json=tmp_path / "out.json", device="cpu"))
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["map"] == report["map"] and again["objects"] == report["objects"]
    assert "test: 4 images" in capsys.readouterr().out
    pictures = {"curves.png", "precision_recall.png", "confusion.png", "predictions.png", "mistakes.png"}
    assert pictures <= {file.name for file in run.iterdir()}
    evaluation.main(evaluation.Evaluate(str(run), json=tmp_path / "tta.json", device="cpu", tta=True))
    assert json.loads((tmp_path / "tta.json").read_text())["scan"] == {"tta": True, "flip": False}  # digits: no mirror


def test_recipes_are_told_apart():
    from train import parse

    assert parse(["scenes"]).data == "scenes"  # pyright: ignore
    with pytest.raises(UserError, match='Did you mean "scenes"'):
        parse(["scene"])
    with pytest.raises(SystemExit) as exit:
        parse(["detect", "--queries", "0"])
    assert exit.value.code == 2
