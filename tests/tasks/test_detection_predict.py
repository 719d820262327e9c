"""A detector's checkpoint alone answers: boxes in pixels of the images, in the ids of the training data's own file."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vit
from vit.data.open import open_data
from vit.pretrained.load_detector import load_detector
from vit.tasks.detection.detections import Detections
from vit.tasks.detection.evaluate import run
from vit.tasks.detection.predict import DetectionPredictor, thresholds_of
from vit.tasks.detection.scan.options import Scan
from vit.tasks.evaluation_options import EvaluationOptions

IDS = {"red": 0, "grün": 7, "blue": 3}


def load(detector: SimpleNamespace, **options: Any) -> DetectionPredictor:
    predictor = vit.load(detector.run, device="cpu", **options)
    assert isinstance(predictor, DetectionPredictor)
    return predictor


def one(predictor: DetectionPredictor, source: Any) -> Detections:
    found = predictor.predict(source)
    assert isinstance(found, Detections)
    return found


@pytest.fixture
def files(detector: SimpleNamespace) -> list[Path]:
    """Images of three sizes; the last has no object."""
    return [detector.shapes / "test" / f"{i}.png" for i in (0, 1, 2, 5)]


def test_a_result_holds_typed_boxes(detector: SimpleNamespace, files: list[Path]):
    found = one(load(detector, threshold=0.1), files[1])
    n = len(found)
    assert n > 0 and found.size == (48, 80) and found.source == files[1]
    assert found.xyxy.dtype == np.float32 and found.xyxy.shape == (n, 4)
    assert found.scores.dtype == np.float32 and found.labels.dtype == np.int64
    assert (np.diff(found.scores) <= 0).all()
    assert found.xyxy.min() >= 0 and (found.xyxy[:, [2, 3]] <= [80, 48]).all()
    boxes = list(found)
    assert len(boxes) == n and tuple(box.name for box in boxes) == found.names
    assert boxes[0].score == found.scores[0] and list(boxes[0].xyxy) == found.xyxy[0].tolist()
    assert all(IDS[box.name] == box.category_id for box in boxes)


def test_it_finds_the_shapes(detector: SimpleNamespace):
    """The shared detector is good enough for the other tests to mean something."""
    images = open_data(str(detector.shapes), kind="boxes").test
    predictor, right, wanted = load(detector), 0, 0
    for i in range(len(images)):
        truth, found = images.annotation(i), one(predictor, images.name(i))
        wanted += len(truth.labels)
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            centers = (found.xyxy[:, :2] + found.xyxy[:, 2:])[found.labels == label] / 2
            right += ((centers > box[:2]) & (centers < box[2:])).all(axis=1).any()
    assert right > 0.5 * wanted


def test_batched_equals_single_for_every_kind_of_source(detector: SimpleNamespace, files: list[Path]):
    predictor = load(detector, threshold=0.0)
    together = predictor.predict(files, batch_size=3)
    assert isinstance(together, list) and [found.size for found in together] == [(64, 64), (48, 80), (70, 56), (70, 56)]
    for file, batched in zip(files, together, strict=True):
        with Image.open(file) as image:
            pixels = np.asarray(image)
        for source in (str(file), file.read_bytes(), pixels):
            alone = one(predictor, source)
            np.testing.assert_allclose(alone.scores, batched.scores, atol=1e-5)
            # Boxes of hardly any score can change places.
            sure = batched.scores > 0.05
            np.testing.assert_allclose(alone.xyxy[sure], batched.xyxy[sure], atol=1e-3)
    assert predictor.predict([]) == []


@pytest.mark.parametrize("scan", [Scan(), Scan(tta=True, nms=0.6), Scan(tile=48, overlap=0.4)], ids=str)
def test_prediction_equals_evaluation(detector: SimpleNamespace, scan: Scan):
    images = open_data(str(detector.shapes), kind="boxes").test
    model, config = load_detector(detector.run)
    metrics, index, bad = run(model, config, images, scan, EvaluationOptions(batch_size=18))
    predictor = load(detector, threshold=0.0, scan=scan)
    predicted = predictor.predict([images.name(i) for i in range(len(images))])
    assert isinstance(predicted, list) and index == list(range(18)) and bad == []
    for mine, evaluated in zip(predicted, metrics.found, strict=True):
        assert np.array_equal(mine.xyxy, evaluated.boxes) and np.array_equal(mine.scores, evaluated.scores)
        assert np.array_equal(mine.labels, evaluated.labels)


def test_coco_results_are_evaluated_against_the_users_own_file(
    detector: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """pycocotools on the file as it is (gapped category ids from 0, image ids from 0, empty images, a crowd) gives what
    our evaluation gives."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content = json.loads((detector.shapes / "test" / "_annotations.coco.json").read_text())
    content["annotations"][3]["iscrowd"] = content["annotations"][7]["iscrowd"] = 1
    for image in content["images"]:
        (tmp_path / image["file_name"]).write_bytes((detector.shapes / "test" / image["file_name"]).read_bytes())
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(content))
    images = open_data(str(tmp_path), evaluation=True, kind="boxes").test
    model, config = load_detector(detector.run)
    images.relabel(config["classes"])
    mine = run(model, config, images, Scan(), EvaluationOptions(batch_size=4))[0].compute()

    predictor = load(detector, threshold=0.0)
    results = [row for i in range(len(images)) for row in one(predictor, images.name(i)).to_coco(images.image_id(i))]
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    for number, annotation in enumerate(truth.dataset["annotations"], 1):
        annotation["id"] = number  # pycocotools itself misses the object of id 0
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")  # pyright: ignore[reportArgumentType]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert mine["map"] > 0.05
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar1", "ar10", "ar100", "ar_small")
    for name, value in zip(names, evaluation.stats, strict=False):
        assert mine[name] is None if value == -1 else mine[name] == pytest.approx(value, abs=1e-6), name
    for k, category in enumerate(sorted(IDS.values())):
        assert truth.loadCats(category)[0]["name"] == predictor.classes[k]
        table = evaluation.eval["precision"][:, :, k, 0, -1]
        assert mine["per_class"][predictor.classes[k]]["ap"] == pytest.approx(table.mean(), abs=1e-6)


def test_thresholds(detector: SimpleNamespace, files: list[Path]):
    """The checkpoint's own is .25, and .3 for red."""
    everything = load(detector, threshold=0.0)
    classes = everything.classes
    for given, wanted in (
        (None, {"red": 0.25, "blue": 0.25, "grün": 0.25}),
        (0.4, {"red": 0.4, "blue": 0.4, "grün": 0.4}),
        ({"blue": 0.6}, {"red": 0.25, "blue": 0.6, "grün": 0.25}),
        ("per-class", {"red": 0.3, "blue": 0.25, "grün": 0.25}),
    ):
        predictor = load(detector, threshold=given)
        assert predictor.thresholds.tolist() == pytest.approx([wanted[name] for name in classes])
        for file in files:
            all_found, found = one(everything, file), one(predictor, file)
            kept = all_found.scores >= predictor.thresholds[all_found.labels]
            assert found.scores.tolist() == all_found.scores[kept].tolist()
    # A box with exactly the threshold's score is given: the best F1 counts it.
    found = one(everything, files[0])
    assert len(one(load(detector, threshold=float(found.scores[2])), files[0])) == 3
    assert len(one(load(detector, threshold=0.0, limit=2), files[0])) == 2


def test_thresholds_of_other_checkpoints():
    assert thresholds_of({"classes": ["a", "b"]}).tolist() == [0.5, 0.5]
    assert thresholds_of({"classes": ["a"], "threshold": None}).tolist() == [0.5]
    for given, message in (
        ({"aa": 0.3}, 'Did you mean "a"'), ("per-class", "stores no thresholds"), ("best", "must be a number"),
        (1.5, r"must be in 0\.\.1, got a 1\.5"), ({"b": -0.1}, r"must be in 0\.\.1, got b -0\.1"),
    ):  # fmt: skip
        with pytest.raises(vit.UserError, match=message):
            thresholds_of({"classes": ["a", "b"]}, given)  # pyright: ignore


def test_options_are_of_one_task(detector: SimpleNamespace, trained: SimpleNamespace):
    with pytest.raises(vit.UserError, match="limit is for detectors"):
        vit.load(trained.run, limit=3)
    with pytest.raises(vit.UserError, match="thresholds by class are for detectors"):
        vit.load(trained.run, threshold={"bluish": 0.3})
    with pytest.raises(vit.UserError, match="at least 1"):
        load(detector, limit=0)


def test_plain_values(detector: SimpleNamespace, files: list[Path]):
    found = one(load(detector), files[0])
    values = json.loads(json.dumps(found.to_dict()))
    assert values["source"] == str(files[0]) and (values["width"], values["height"]) == (64, 64)
    assert [box["label"] for box in values["boxes"]] == list(found.names)
    for entry, box in zip(values["boxes"], found, strict=True):
        assert entry["category_id"] == IDS[entry["label"]] and entry["score"] == pytest.approx(box.score, abs=1e-4)
        assert entry["xyxy"] == pytest.approx(list(box.xyxy), abs=0.01)
    assert "source" not in one(load(detector), np.zeros((8, 8, 3), np.uint8)).to_dict()


def test_a_checkpoint_without_category_ids_counts_from_0(detector: SimpleNamespace, files: list[Path]):
    model, config = load_detector(detector.run)
    del config["category_ids"]
    predictor = DetectionPredictor(model, config, device="cpu", threshold=0.0)
    assert {row["category_id"] for row in one(predictor, files[0]).to_coco(9)} <= {0, 1, 2}


def test_supervision(detector: SimpleNamespace, files: list[Path]):
    supervision = pytest.importorskip("supervision")
    found = one(load(detector), files[0])
    for result in (found, one(load(detector, threshold=1.0), files[0])):
        other = result.to_supervision()
        assert isinstance(other, supervision.Detections) and len(other) == len(result)
        assert np.array_equal(other.xyxy, result.xyxy) and np.array_equal(other.confidence, result.scores)
        assert other.class_id.tolist() == result.labels.tolist()
        assert list(other.data["class_name"]) == list(result.names)


def test_without_supervision(detector: SimpleNamespace, files: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(vit.UserError, match="pip install supervision"):
        one(load(detector), files[0]).to_supervision()


def test_a_drawing_shows_the_boxes(detector: SimpleNamespace, files: list[Path], tmp_path: Path):
    from vit.images.draw import color_of

    found = one(load(detector), files[0])
    picture = found.drawn()
    assert picture.shape == (512, 512, 3)  # 64 pixels, enlarged so that names can be read
    left, top, right, bottom = (found.xyxy[0] * 8).astype(int)
    color = np.array(color_of(int(found.labels[0])))
    assert (picture[(top + bottom) // 2, left + 1] == color).all()
    assert (picture[(top + bottom) // 2, right - 2] == color).all()
    found.plot().savefig(tmp_path / "answer.png")
    with Image.open(tmp_path / "answer.png") as saved:
        assert (np.abs(np.asarray(saved.convert("RGB")).astype(int) - color).sum(axis=2) < 30).mean() > 0.005


def test_a_diverged_model_is_told(detector: SimpleNamespace, files: list[Path]):
    predictor = load(detector)
    torch.nn.init.constant_(predictor.model.class_head.bias, float("nan"))
    with pytest.raises(vit.UserError, match=r"NaN or infinite boxes for .*0\.png"):
        predictor.predict(files[0])


def test_unreadable_images_are_told_and_the_others_answered(
    detector: SimpleNamespace, files: list[Path], tmp_path: Path
):
    (tmp_path / "broken.png").write_bytes(b"no image")
    sources = [files[0], tmp_path / "broken.png", files[1]]
    results = list(load(detector).stream(sources))
    assert [isinstance(result, Detections) for result in results] == [True, False, True]
    assert [result.source for result in results] == sources
    with pytest.raises(vit.UserError, match=r"broken\.png"):
        load(detector).predict([tmp_path / "broken.png"])
