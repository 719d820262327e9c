"""`train.py scenes`, `train.py detect` and `eval.py` from end to end, on a few small images."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vit.training.engine
from tests.small_data import write_squares
from vit.commands import train
from vit.commands.exit import run as run_command
from vit.data.open import open_data
from vit.detector import Detector
from vit.errors import Stopped, UserError
from vit.images.preprocess import Preprocess
from vit.pretrained.load_detector import Start
from vit.tasks.detection.build import begin, build, detection_preprocess
from vit.tasks.detection.feed import crowded, repeated
from vit.tasks.detection.recipe import Recipe
from vit.tasks.detection.settle import settle
from vit.tasks.facts import Facts
from vit.training.log import read_rows

Command = Callable[..., tuple[int, str, str]]
BRIEF = ["--device", "cpu", "--batch-size", "4", "--workers", "0", "--image-size", "32", "--queries", "12"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares") / "data", {"train": 24, "valid": 6, "test": 6})


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """command("detect", ...) -> (exit code, stdout, stderr) of train.py."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: train.main([str(word) for word in words]))
        out, err = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, out, err

    return call


@pytest.mark.slow
def test_scenes_are_trained_on_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from vit.commands import eval as evaluation
    from vit.data.bundled import scenes

    monkeypatch.setattr(scenes, "COUNTS", {"train": 8, "val": 4, "test": 4})
    run = tmp_path / "run"
    train.main(["scenes", "--out", str(run), "--epochs", "1", "--batch-size", "4", "--device", "cpu"])
    report = json.loads((run / "report.json").read_text())
    assert report["task"] == "detection" and report["split"] == "test" and report["n"] == 4
    assert {"map", "map50", "map75", "per_class", "best_threshold"} <= set(report)
    evaluation.Evaluate(checkpoint=str(run), json=tmp_path / "out.json", device="cpu").run()
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["map"] == report["map"] and again["objects"] == report["objects"]
    assert "test: 4 images" in capsys.readouterr().out
    pictures = {"curves.png", "precision_recall.png", "confusion.png", "predictions.png", "mistakes.png"}
    assert pictures <= {file.name for file in run.iterdir()}
    evaluation.Evaluate(checkpoint=str(run), json=tmp_path / "tta.json", device="cpu", tta=True).run()
    assert json.loads((tmp_path / "tta.json").read_text())["scan"] == {"tta": True, "flip": False}  # digits: no mirror


def test_recipes_are_told_apart():
    from vit.commands.train import parse

    assert parse(["scenes"]).data == "scenes"  # pyright: ignore
    with pytest.raises(UserError, match='Did you mean "scenes"'):
        parse(["scene"])
    with pytest.raises(UserError, match="--queries must be at least 1"):
        parse(["detect", "--queries", "0"])


@pytest.fixture(scope="module")
def trained(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the squares with every training aid."""
    out = tmp_path_factory.mktemp("runs") / "squares"
    aids = ["--multi-scale", "0.5", "--balanced", "--class-weights", "--ema", "0.9", "--layer-decay", "0.8"]
    train.main(["detect", "--data", str(squares), "--out", str(out), "--epochs", "2", *BRIEF, *aids])
    return out


def test_a_run_and_another_that_starts_from_it(trained: Path, squares: Path, tmp_path: Path, command: Command):
    report = json.loads((trained / "report.json").read_text())
    assert report["n"] == 6 and report["objects"] == 8  # images without objects count (row 17)
    assert [file.name for file in sorted((trained / "previews").iterdir())] == ["epoch_001.png", "epoch_002.png"]
    code, told, err = command(
        "detect", "--data", squares, "--weights", trained, "--freeze-blocks", 2, "--epochs", 1, "--out",
        tmp_path / "run", "--no-previews", *BRIEF,
    )  # fmt: skip
    assert code == 0, err
    assert "train: 24 images, 8 without boxes; 32 boxes" in told
    assert "The patch embedding, the positions and 2 of 4 blocks are frozen." in told and "New class heads" not in told
    assert not (tmp_path / "run/previews").exists()
    first, second = (load_file(run / "checkpoints/best/model.safetensors") for run in (trained, tmp_path / "run"))
    for name in first:
        moved = not torch.equal(first[name], second[name])
        frozen = name.startswith(("encoder.patch_embed", "encoder.pos_embed", "encoder.blocks.0.", "encoder.blocks.1."))
        assert moved != frozen or not first[name].is_floating_point(), name


@pytest.mark.slow
def test_resume_after_an_interruption_is_the_uninterrupted_run(
    squares: Path, trained: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
):
    options = ["--data", squares, "--epochs", 2, *BRIEF, "--multi-scale", 0.5, "--balanced", "--class-weights",
               "--ema", 0.9, "--layer-decay", 0.8]  # fmt: skip
    calls, step = iter(range(100)), vit.training.engine.train_step

    def interrupted(*args):
        if next(calls) == 9:
            raise Stopped(signal.SIGINT)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(vit.training.engine, "train_step", interrupted)
        assert command("detect", "--out", tmp_path / "run", *options)[0] == 130
    assert command("detect", "--out", tmp_path / "run", "--resume", *options)[0] == 0

    def rows(run: Path):
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_rows(run / "metrics.jsonl")]

    assert rows(tmp_path / "run") == rows(trained)
    one, other = (load_file(run / "checkpoints/last/model.safetensors") for run in (tmp_path / "run", trained))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dry_run_tells_the_cost(squares: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, told, err = command("detect", "--data", squares, "--dry-run", "--epochs", 3, *BRIEF)
    assert code == 0, err
    assert "FLOPs" in told and "18 steps" in told and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_row_47_a_set_without_any_object(tmp_path: Path, command: Command):
    data = write_squares(tmp_path / "data", {"train": 8, "valid": 4}, objects=False)
    code, told, err = command("detect", "--data", data, "--out", tmp_path / "run", "--epochs", 1, *BRIEF)
    assert code == 0, err
    assert "val map undefined" in told and json.loads((tmp_path / "run/report.json").read_text())["map"] is None


def test_images_are_kept_between_epochs(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fed: list[Any] = []

    def fit(parts: Any, *_: Any, **__: Any) -> None:
        list(parts.validation())
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file was opened again"))
        fed.extend([next(iter(parts.batches)), next(iter(parts.validation()))])
        raise KeyboardInterrupt

    monkeypatch.setattr("vit.training.run.fit", fit)
    options = ["--cache", "ram", "--augment", "strong", "--no-previews", "--out", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt):
        train.main(["detect", "--data", str(squares), *BRIEF, *options])
    told = capsys.readouterr().out
    assert "Cache: 24 images at 1.25 times the model's input in memory" in told
    assert len(fed[0].index) == 4 and len(fed) == 2


def test_mistakes_are_named(squares: Path, command: Command, tmp_path: Path):
    for words, message in (
        (["--weights", tmp_path / "nowhere"], "does not exist"),
        (["--model", "rfdetr_nanno"], 'Did you mean "rfdetr_nano"'),
        (["--encoder", "dinov2_s15"], 'Did you mean "dinov2_s14"'),
        (["--image-size", "100"], "the detector needs a multiple of 16, for example 96"),
        (["--multi-scale", "0.1"], "--multi-scale 0.1 leaves one size of 32x32 pixels in steps of 16"),
        (["--multi-scale", "-1"], "--multi-scale must be at least 0 and below 1"),
        (["--close-mosaic", "1.5"], "--close-mosaic must be in 0..1, got 1.5"),
        (["--freeze"], "--freeze keeps pretrained weights: add --weights SRC"),
        (["--freeze", "--freeze-blocks", "1"], "--freeze freezes the whole encoder. Leave out"),
    ):
        code, _, err = command("detect", "--data", squares, "--out", tmp_path / "run", *BRIEF, *words)
        assert code == 2 and message in err, err
    assert not (tmp_path / "run").exists()


FACTS = Facts(images=100, classes=2, size=(300, 500), gray=False, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


def detector_of(settled: Any, start: Start, classes: list[str]) -> tuple[Detector, list[str]]:
    made = build(settled, SimpleNamespace(classes=classes), FACTS, start)
    assert isinstance(made.model, Detector)
    return made.model, made.notes


def test_images_are_prepared_as_the_weights_know_them(trained: Path):
    recipe = Recipe(data="x", weights=str(trained))
    start = begin(recipe)
    assert start.knows_boxes and start.preprocess is not None
    settled, _ = settle(recipe, FACTS, start)
    assert (settled.image_size, settled.resize) == (32, "letterbox")
    fresh = Recipe(data="x", model="rfdetr_nano")
    assert begin(fresh).config.divisor == 32
    assert settled.lr < settle(fresh, FACTS, begin(fresh))[0].lr and settled.layer_decay < 1
    assert detection_preprocess(settled, FACTS, start).mean == start.preprocess.mean != FACTS.mean
    # The classes are others: new heads, even though there are as many.
    _, notes = detector_of(settled, start, ["red", "green"])
    assert "New class heads for 2 classes (the weights have 2)." in notes
    model, notes = detector_of(settled, start, ["green", "red"])
    assert notes == [] and torch.equal(model.class_head.weight, start.tensors["class_head.weight"])
    known = replace(begin(fresh), tensors=start.tensors, preprocess=Preprocess((384, 384), "squash"))
    settled, _ = settle(replace(fresh, image_size=448), FACTS, known)
    assert (settled.image_size, settled.resize) == (448, "squash")
    settled, _ = settle(fresh, FACTS, begin(fresh))
    assert (settled.image_size, settled.resize) == (512, "letterbox")


def frozen(model: Detector) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_freezing(trained: Path):
    def made(**fields: object) -> Detector:
        recipe = Recipe(data="x", weights=str(trained), **fields)  # pyright: ignore[reportArgumentType]
        start = begin(recipe)
        return detector_of(settle(recipe, FACTS, start)[0], start, ["green", "red"])[0]

    assert frozen(made()) == set()
    model = made(freeze=True)
    assert frozen(model) == {f"encoder.{name}" for name, _ in model.encoder.named_parameters()}
    assert all(name.startswith(("encoder.patch_embed.", "encoder.pos_embed")) for name in frozen(made(freeze_blocks=0)))
    assert frozen(made(freeze_blocks=4)) == frozen(model)  # this encoder has no norm after its blocks
    with pytest.raises(UserError, match="--freeze-blocks 5: the encoder has 4 blocks"):
        made(freeze_blocks=5)


def test_more_objects_than_queries_is_told(squares: Path):
    data = open_data(str(squares), kind="boxes")
    assert crowded(data, 2) == []
    assert "66.7% of the training images have more than 1 objects, up to 2" in crowded(data, 1)[0]
    scenes = open_data("scenes", kind="boxes")
    assert crowded(scenes, 6) == []
    (told,) = crowded(scenes, 5)
    assert "have more than 5 objects, up to 6; the detector finds at most 5. Add --queries 6." in told


def test_rare_classes_are_repeated(squares: Path):
    data = open_data(str(squares), kind="boxes")
    images, labels = data.train.labeled()
    rare = np.isin(np.arange(24), images[labels == 1])
    repeats, told = repeated(data)
    # 4 of 24 images have red, 16 green: the median is 10 of 24, sqrt(10 / 4) = 1.58.
    np.testing.assert_allclose(repeats[rare], 2.5**0.5)
    np.testing.assert_array_equal(repeats[~rare], 1)
    assert told == "Images with rare classes repeat up to 1.6 times: an epoch has 27 images, not 24."
