import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from vit.errors import UserError
from vit.report.confusion import NAMED_CLASSES, confused_pairs, draw_confusion
from vit.report.files import write_json
from vit.report.plots import Tile, draw_curves, draw_mistakes, draw_prediction, save
from vit.tasks.classification.evaluate import summarize
from vit.tasks.classification.metrics import ClassificationMetrics
from vit.tasks.classification.report import print_report, report_lines, write_report
from vit.tasks.evaluation import Evaluation
from vit.training.log import write_curves


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def outputs_of(k: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, k] that are mostly right, and targets [n]."""
    g = torch.Generator().manual_seed(0)
    targets = torch.arange(n) % k
    logits = torch.randn(n, k, generator=g)
    logits[torch.arange(n), targets] += 2
    return logits, targets


def metrics_of(
    classes: Sequence[str], logits: torch.Tensor, targets: torch.Tensor, multilabel: bool = False
) -> ClassificationMetrics:
    metrics = ClassificationMetrics(classes, multilabel, keep_logits=True)
    metrics.update(logits, targets)
    return metrics


def test_report_lines():
    classes = ["cat", "dog", "[red]", "hen", "pig", "cow"]
    result = summarize(metrics_of(classes, *outputs_of(6)), temperature=1.5) | {"split": "test"}
    text = "\n".join(report_lines(result))
    assert text.startswith("test: 60 images, 6 classes")
    low, high = result["top1_ci95"]
    assert f"{100 * result['top1']:.2f} %  (95 % interval {100 * low:.2f} % to {100 * high:.2f} %)" in text
    assert f"{100 * result['ece']:.2f} %  ({100 * result['ece_calibrated']:.2f} % at temperature 1.5)" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("[red]"))
    entry = result["per_class"]["[red]"]
    assert row.split()[1] == "10" and f"{100 * entry['precision']:.2f}" in row


def test_a_long_name_moves_no_other_line():
    classes = ["cat", "a" * 200]
    lines = report_lines(summarize(metrics_of(classes, *outputs_of(2))))
    rows = [line for line in lines if line.strip().startswith(("cat", "aaa"))]
    assert len(rows[0]) < 100 and classes[1] in rows[1]


def test_report_of_nothing_says_undefined():
    text = "\n".join(report_lines(summarize(ClassificationMetrics(["a", "b"], keep_logits=True))))
    assert "0 images" in text and "top-1                  undefined" in text


def test_report_tells_what_was_not_evaluated():
    logits, targets = outputs_of(3)
    logits[0] = math.nan
    result = summarize(metrics_of("abc", logits, targets)) | {"unreadable": [{"name": "x.jpg", "reason": "broken"}] * 2}
    text = "\n".join(report_lines(result))
    assert "1 images, counted as wrong" in text and "2 images, not evaluated" in text


def test_many_classes_are_not_listed():
    result = summarize(metrics_of([f"class {k}" for k in range(50)], *outputs_of(50)))
    lines = report_lines(result)
    listed = [line for line in lines if line.strip().startswith("class ")]
    assert any("hardest 10 classes" in line for line in lines) and len(listed) == 10
    worst = min((entry["f1"] or 0) for entry in result["per_class"].values())
    assert f"{100 * worst:.2f} %" in listed[0]


def test_multilabel_report():
    logits, targets = torch.tensor([[2.0, -1], [-2, 3]]), torch.tensor([[1.0, 0], [0, 1]])
    text = "\n".join(report_lines(summarize(metrics_of(["sea", "sky"], logits, targets, multilabel=True))))
    assert "mean AP                100.00 %" in text and "top-1" not in text


def test_printed_plain_in_a_pipe_and_drawn_on_a_terminal():
    result = summarize(metrics_of(["a", "b", "[red]"], *outputs_of(3)))
    plain, terminal = io.StringIO(), io.StringIO()
    print_report(result, Console(file=plain))
    print_report(result, Console(file=terminal, force_terminal=True, width=100))
    assert plain.getvalue().splitlines() == report_lines(result)
    assert "\x1b[" in terminal.getvalue() and "[red]" in terminal.getvalue()
    assert f"{100 * result['top1']:.2f} %" in terminal.getvalue()


def test_files_of_a_report(tmp_path: Path):
    logits, targets = outputs_of(3)
    metrics = metrics_of("abc", logits, targets)
    result = summarize(metrics)
    asked: list[int] = []

    def image(i: int) -> np.ndarray:
        asked.append(i)
        return np.full((8, 12, 3), (250, 0, 250), np.uint8)

    images = SimpleNamespace(image=image, name=str)
    files = write_report(tmp_path / "new", Evaluation(result, metrics, list(range(len(logits))), images))
    assert [file.name for file in files] == ["report.json", "confusion.png", "mistakes.png"]
    assert json.loads(files[0].read_text()) == result
    wrong = (logits.argmax(1) != targets).nonzero()[:, 0].tolist()
    assert sorted(asked) == sorted(wrong) and wrong
    picture = pixels(files[2])
    pink = (picture[..., 0] > 200) & (picture[..., 1] < 50) & (picture[..., 2] > 200)
    assert pink.mean() > 0.05  # the images are in the picture


def test_json_is_strict_and_whole(tmp_path: Path):
    write_json(tmp_path / "a.json", {"nan": math.nan, "list": [1.0, math.inf], "text": "ü"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "list": [1.0, None], "text": "ü"}
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "missing" / "a.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "folder", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]


def test_curves(tmp_path: Path):
    rows: list[dict] = [{"phase": "train", "step": s, "loss": 1 / s, "lr": 1e-3, "epoch": s / 10} for s in range(1, 90)]
    rows += [
        {"phase": "val", "step": 45, "loss": 0.4, "top1": 0.5, "n": 10},
        {"phase": "val", "step": 90, "top1": None},
    ]
    figure = draw_curves(rows)
    lines = {
        line.get_label(): line
        for axes in figure.axes
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }
    assert set(lines) == {"train loss", "val loss", "val top1", "train lr"}
    assert lines["val top1"].get_xydata().tolist() == [[45, 0.5]]
    assert len(lines["train loss"].get_xdata()) == 89
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"phase": "tr'  # cut short by a crash
    (tmp_path / "metrics.jsonl").write_text(text)
    assert pixels(write_curves(tmp_path)).std() > 5
    save(draw_curves([]), tmp_path / "nothing.png")


@pytest.mark.parametrize("k", [2, 10, NAMED_CLASSES, NAMED_CLASSES + 1, 1000])
def test_confusion(k: int, tmp_path: Path):
    rng = np.random.default_rng(0)
    matrix = rng.poisson(2 / k, (k, k))
    matrix[np.arange(k), np.arange(k)] = 40
    figure = draw_confusion(matrix, [f"name {i}" for i in range(k)])
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    if k <= NAMED_CLASSES:
        assert sorted(texts) == sorted(str(n) for n in matrix.ravel() if n)
    else:
        assert any("→" in text for text in texts)
        assert max(figure.axes[0].images[0].get_array().shape) <= 100
    save(figure, tmp_path / "confusion.png")
    assert pixels(tmp_path / "confusion.png").std() > 5


def test_confusion_without_mistakes_or_images(tmp_path: Path):
    for k in (3, 40):
        names = [str(i) for i in range(k)]
        save(draw_confusion(np.eye(k, dtype=int), names), tmp_path / "right.png")
        save(draw_confusion(np.zeros((k, k), int), names), tmp_path / "empty.png")


def test_confused_pairs():
    matrix = np.array([[50, 3, 0], [1, 50, 7], [0, 0, 50]])
    pairs = confused_pairs(matrix, ["a", "b", "c"], 2)
    assert [tuple(pair) for pair in pairs] == [("b", "c", 7), ("a", "b", 3)]
    assert len(confused_pairs(matrix, ["a", "b", "c"], 9)) == 3
    assert matrix[0, 0] == 50


def test_names_that_pictures_choke_on(tmp_path: Path):
    """A $ starts a formula, and the font has no Japanese: neither may raise or warn (warnings are errors here)."""
    names = ["cost $5 and $_x^", "日本の猫", "a_very_long_name_that_goes_on_and_on_and_on"]
    image = np.zeros((4, 40, 3), np.uint8)
    tiles = [Tile(image, name, names[0], 0.9, f"/some/where/{name}.jpg") for name in names]
    for figure in (
        draw_mistakes(tiles),
        draw_mistakes([]),
        draw_confusion(np.eye(3, dtype=int), names),
        draw_prediction(image, [(name, 0.3) for name in names]),
    ):
        save(figure, tmp_path / "picture.png")
        assert pixels(tmp_path / "picture.png").std() > 5
