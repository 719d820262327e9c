"""eval.py on a detector, and the report at the end of a training run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vit
import vit.tasks.detection.report as detection_report
from vit.commands import eval as evaluation
from vit.data.open import open_data
from vit.errors import UserError
from vit.pretrained.load_detector import load_detector
from vit.report.screen import summary_lines
from vit.runs.checkpoint import set_config
from vit.tasks.detection.evaluate import evaluate
from vit.tasks.detection.evaluate import run as collect
from vit.tasks.detection.metrics import Boxes, DetectionMetrics, Truth
from vit.tasks.detection.pictures import scene_of
from vit.tasks.detection.report import summary_of, thresholds_to_keep, write_report
from vit.tasks.detection.scan.options import Scan
from vit.tasks.evaluation import Evaluation
from vit.tasks.evaluation_options import EvaluationOptions
from vit.tasks.run import Run
from vit.tasks.table import TASKS
from vit.training.run import report

FILES = {"report.json", "precision_recall.png", "confusion.png", "predictions.png", "mistakes.png"}


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise takes long to compress."""
    monkeypatch.setattr(detection_report, "SHOWN", 2)
    monkeypatch.setattr(detection_report, "WORST", 2)


def evaluated(detector: SimpleNamespace, tmp_path: Path, **options: Any) -> dict[str, Any]:
    evaluation.Evaluate(checkpoint=str(detector.run), json=tmp_path / "out.json", device="cpu", **options).run()
    return json.loads((tmp_path / "out.json").read_text())


def colors(file: Path) -> int:
    with Image.open(file) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


def test_figures_and_pictures(detector: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = evaluated(detector, tmp_path, out=tmp_path / "report")
    assert {"task", "split", "n", "map", "map50", "map75", "per_class", "best_threshold"} <= set(result)
    assert (result["task"], result["split"], result["n"]) == ("detection", "test", 18)
    assert result["map50"] > 0.3
    # What needs a threshold is at the checkpoint's, which was not chosen on these images.
    assert result["threshold"] == 0.25 != result["best_threshold"]
    table = np.array(result["confusion"])
    truths = [result["per_class"][name]["objects"] for name in detector.config["classes"]]
    assert table.shape == (4, 4) and table[:3].sum(axis=1).tolist() == truths
    assert result["f1"] <= result["best_f1"] <= 1 and result["scan"] == {}
    assert {file.name for file in (tmp_path / "report").iterdir()} == FILES
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == result
    for name in ("precision_recall.png", "confusion.png", "predictions.png", "mistakes.png"):
        assert colors(tmp_path / "report" / name) > 50
    printed = capsys.readouterr().out
    assert f"pictures are in {tmp_path / 'report'}.\n" in printed
    assert "test: 18 images" in printed and f"{100 * result['map']:.2f} %" in printed


def test_precision_and_recall_are_those_of_the_confusion_of_found_objects(detector: SimpleNamespace, tmp_path: Path):
    result = evaluated(detector, tmp_path)
    hits = result["recall"] * result["objects"]
    boxes = np.array(result["confusion"])[:, :3].sum()
    assert hits == pytest.approx(round(hits)) and result["precision"] == pytest.approx(hits / boxes)
    assert result["f1"] == pytest.approx(2 * hits / (boxes + result["objects"]))


def test_other_ways_to_look(detector: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain = evaluated(detector, tmp_path)
    for options, scan in (
        ({"tile": 40, "overlap": 0.4}, {"tile": 40, "overlap": 0.4}),
        ({"tta": True}, {"tta": True, "flip": True}),
        ({"tta": True, "tta_flip": "no"}, {"tta": True, "flip": False}),
        ({"nms": 0.3}, {"nms": 0.3}),
    ):
        result = evaluated(detector, tmp_path, **options)
        assert result["scan"] == scan and result["n"] == 18 and result["map"] != plain["map"]
        assert result["map50"] > 0.2
        assert ", ".join(f"{key} {value}" for key, value in scan.items()) in capsys.readouterr().out


def test_tiles_find_what_is_small_in_a_large_image(detector: SimpleNamespace, tmp_path: Path):
    """16 images beside each other as one: at the model's 64 pixels its objects are a few pixels wide."""
    content = json.loads((detector.shapes / "train" / "_annotations.coco.json").read_text())
    parts = [image for image in content["images"] if image["width"] == image["height"] == 64][:16]
    large, annotations = np.zeros((256, 256, 3), np.uint8), []
    for i, part in enumerate(parts):
        x, y = i % 4 * 64, i // 4 * 64
        with Image.open(detector.shapes / "train" / part["file_name"]) as image:
            large[y : y + 64, x : x + 64] = np.asarray(image)
        for row in content["annotations"]:
            if row["image_id"] == part["id"]:
                left, top, *size = row["bbox"]
                annotations.append(
                    row | {"image_id": 1, "id": len(annotations) + 1, "bbox": [left + x, top + y, *size]}
                )
    Image.fromarray(large).save(tmp_path / "large.png")
    images = [{"id": 1, "file_name": "large.png", "width": 256, "height": 256}]
    content |= {"images": images, "annotations": annotations}
    (tmp_path / "large.json").write_text(json.dumps(content))
    plain, tiled = (
        evaluated(detector, tmp_path, data=str(tmp_path / "large.json"), **options)["map50"]
        for options in ({}, {"tile": 64, "overlap": 0.0})
    )
    assert plain < 0.05 and tiled > 0.25


def test_unreadable_images_are_told_in_tiles_too(detector: SimpleNamespace, tmp_path: Path):
    data = Path(shutil.copytree(detector.shapes / "test", tmp_path / "data"))
    (data / "3.png").write_bytes((data / "3.png").read_bytes()[:300])
    for options in ({}, {"tile": 48}):
        result = evaluated(detector, tmp_path, data=str(data), out=tmp_path / "report", **options)
        assert result["n"] == 17 and [Path(bad["name"]).name for bad in result["unreadable"]] == ["3.png"]
    for file in data.glob("*.png"):
        file.write_bytes(b"")
    for options in ({}, {"tile": 48}):
        with pytest.raises(UserError, match="no images that can be used"):
            evaluated(detector, tmp_path, data=str(data), **options)


def test_mistakes_in_the_command(detector: SimpleNamespace, trained: SimpleNamespace, tmp_path: Path):
    with pytest.raises(UserError, match="--knn is for classifiers"):
        evaluated(detector, tmp_path, knn=3)
    with pytest.raises(UserError, match="an IoU in"):
        evaluated(detector, tmp_path, nms=2.0)
    for options in ({"tile": 64}, {"nms": 0.5}):
        with pytest.raises(UserError, match="is for detectors"):
            evaluated(trained, tmp_path, **options)


def test_the_report_of_a_run_keeps_the_thresholds(
    detector: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Chosen on validation, used on test and by prediction."""
    run = Path(shutil.copytree(detector.run, tmp_path / "run"))
    set_config(run / "checkpoints" / "best", threshold=None, class_thresholds=None)
    (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "phase": "val", "map": 0.1, "map50": 0.3}\n')
    data = open_data(str(detector.shapes), kind="boxes")
    recipe: Any = SimpleNamespace(device="cpu", workers=0)
    result = report(TASKS["detection"], Run(recipe, data, facts=None, device=torch.device("cpu")), run)
    assert {file.name for file in run.iterdir()} == {*FILES, "curves.png", "checkpoints", "metrics.jsonl"}
    model, config = load_detector(run)
    chosen = collect(model, config, data.splits()["val"], Scan(), EvaluationOptions())[0].compute()
    assert config["threshold"] == chosen["best_threshold"] == result["threshold"]
    enough = {name for name, entry in chosen["per_class"].items() if entry["objects"] >= 10}
    assert set(config["class_thresholds"]) == enough
    predictor = vit.load(run, device="cpu")
    assert predictor.thresholds.tolist() == pytest.approx([config["threshold"]] * 3)  # pyright: ignore
    assert "vitral predict" in capsys.readouterr().out


def metrics_of(*images: tuple[list[list[float]], list[list[float]]], classes: int = 2) -> DetectionMetrics:
    """(objects (left, top, right, bottom, label), boxes (..., score, label)) of each image."""
    metrics = DetectionMetrics([f"class {k}" for k in range(classes)], (64, 64))
    for objects, boxes in images:
        truth, found = np.array(objects, np.float32).reshape(-1, 5), np.array(boxes, np.float32).reshape(-1, 6)
        size = (truth[:, 2:4] - truth[:, :2]).prod(axis=1)
        crowd = np.zeros(len(truth), bool)
        metrics.truths.append(Truth(truth[:, :4], truth[:, 4].astype(np.int64), crowd, size))
        metrics.found.append(Boxes(found[:, :4], found[:, 4], found[:, 5].astype(np.int64)))
    return metrics


def written(metrics: DetectionMetrics, folder: Path) -> dict[str, Any]:
    result = {"task": "detection", "split": "test", **metrics.compute()}

    images = SimpleNamespace(image=lambda i: np.full((64, 64, 3), 60 + i, np.uint8), name="image {}".format)
    write_report(folder, Evaluation(result, metrics, list(range(len(metrics.truths))), images))
    assert {file.name for file in folder.iterdir()} == FILES
    assert summary_lines(summary_of(result))
    return result


BOX = [8.0, 8.0, 30.0, 30.0]


@pytest.mark.parametrize(
    "images",
    [
        [([[*BOX, 0]], [[*BOX, 0.9, 0]])],  # no mistake
        [([[*BOX, 0]], [])],  # nothing found
        [([], []), ([], [])],  # nothing there
        [([], [[*BOX, 0.9, 1]])],  # nothing there, and something found
        [([[*BOX, 0]], [[*BOX, 0.9, 1], [*BOX, 0.5, 0]]), ([], [])],
    ],
)
def test_reports_of_odd_results(images: list[Any], tmp_path: Path):
    result = written(metrics_of(*images), tmp_path)
    if not any(objects for objects, _ in images):
        assert result["map"] is None and result["best_threshold"] is None  # row 47: undefined, not zero


def test_a_photograph_is_made_smaller_with_its_boxes():
    metrics = metrics_of(([[400, 20, 800, 60, 0], [0, 0, 50, 50, 1]], [[410, 20, 800, 60, 0.9, 0], [*BOX, 0.2, 1]]))
    scene = scene_of(
        np.zeros((100, 2000, 3), np.uint8), "wide", metrics.truths[0], metrics.found[0], metrics.matched()[0], 0.5
    )
    assert scene.image.shape == (50, 1000, 3)
    assert scene.truth == [([200, 10, 400, 30], 0, True), ([0, 0, 25, 25], 1, False)]
    assert scene.found == [([205, 10, 400, 30], 0, pytest.approx(0.9), True)]


def test_a_thousand_classes(tmp_path: Path):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        labels = rng.integers(0, 1000, 5)
        guessed = np.where(rng.random(5) < 0.3, rng.integers(0, 1000, 5), labels)
        corners = [[12.0 * i, 0.0, 12.0 * i + 10, 40.0] for i in range(5)]
        objects = [[*corner, float(k)] for corner, k in zip(corners, labels, strict=True)]
        found = [[*corner, float(rng.random()), float(k)] for corner, k in zip(corners, guessed, strict=True)]
        images.append((objects, found))
    result = written(metrics_of(*images, classes=1000), tmp_path)
    assert len(result["per_class"]) == 1000 and np.array(result["confusion"]).shape == (1001, 1001)
    assert "hardest 10 classes" in "\n".join(summary_lines(summary_of(result)))


def test_one_class(tmp_path: Path):
    result = written(metrics_of(([[*BOX, 0]], [[*BOX, 0.9, 0]]), classes=1), tmp_path)
    assert result["map"] == pytest.approx(1) and np.array(result["confusion"]).tolist() == [[1, 0], [0, 0]]
    assert thresholds_to_keep(result) == {"threshold": pytest.approx(0.9), "class_thresholds": {}}


def test_a_split_that_is_not_there(detector: SimpleNamespace):
    data = open_data(str(detector.shapes / "test" / "_annotations.coco.json"), evaluation=True, kind="boxes")
    with pytest.raises(UserError, match=r"no val split; it has test \(18 images\)"):
        evaluate(detector.run, data, EvaluationOptions(split="val", device="cpu"))
