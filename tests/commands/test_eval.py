import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.neighbors import KNeighborsClassifier

from vit.commands import eval as evaluation
from vit.commands.exit import run
from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
from vit.errors import UserError
from vit.pretrained import load
from vit.pretrained.registry import find as registry
from vit.tasks.classification.evaluate import flips as mirrors
from vit.tasks.classification.features import open_encoder
from vit.tasks.evaluation_options import EvaluationOptions

ROOT = Path(__file__).parents[2]


def evaluated(trained: SimpleNamespace, tmp_path: Path, **options) -> dict:
    args = evaluation.Evaluate(checkpoint=str(trained.run), json=tmp_path / "out.json", device="cpu", **options)
    args.run()
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


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    """A file of timm's names, with random weights."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("public") / "deit.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224", num_classes=7, depth=2).state_dict(), file)
    return file


@pytest.fixture
def two_blocks(monkeypatch) -> None:
    """deit_ti16 of two blocks: neighbors need no more."""
    row = registry.find("deit_ti16")
    monkeypatch.setattr(load, "find", lambda name: replace(row, size=row.size._replace(depth=2)))


def test_neighbors_alone_for_public_weights(public, two_blocks, photos: Path, tmp_path: Path, capsys):
    options = {"model": "deit_ti16", "image_size": 32, "device": "cpu", "data": str(photos)}
    report = tmp_path / "report"
    evaluation.Evaluate(checkpoint=str(public), knn=3, json=tmp_path / "a.json", out=report, **options).run()
    result = json.loads((tmp_path / "a.json").read_text())
    printed = capsys.readouterr()
    assert "Positions are resized" in printed.err and "(k = 3, 36 in memory)" in printed.out
    assert f"pictures are in {report}.\n" in printed.out
    assert (result["split"], result["n"], result["knn"]["memory"]) == ("test", 15, 36)
    assert result["top1"] == result["knn"]["top1"] and result["temperature"] is None
    assert {path.name for path in report.iterdir()} == {"report.json", "confusion.png", "mistakes.png"}

    # The same by scikit-learn: cosine similarity, weights exp(similarity / .07).
    data, encoder = (
        open_data(str(photos), kind="labels"),
        open_encoder(str(public), model="deit_ti16", image_size=32)[0],
    )
    (train,), (test,) = (
        list(eval_loader(LabelReader(images, encoder.preprocess), LoaderOptions(batch_size=64)))
        for images in (data.train, data.test)
    )
    peer = KNeighborsClassifier(3, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    found = peer.fit(encoder.features(train.images), train.targets).predict(encoder.features(test.images))
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (test.targets.numpy(), found), 1)
    assert result["confusion"] == confusion.tolist() and result["top1"] > 0.5


def test_neighbors_alone_hold_out_a_val_split_where_there_is_no_other(public, two_blocks, photos: Path, tmp_path: Path):
    options = {"model": "deit_ti16", "image_size": 32, "device": "cpu", "json": tmp_path / "a.json"}
    evaluation.Evaluate(checkpoint=str(public), knn=3, data=str(photos / "train"), **options).run()
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["split"] == "val" and result["n"] + result["knn"]["memory"] == 36


def test_mistakes_with_public_weights(trained: SimpleNamespace, public, two_blocks, photos: Path, tmp_path: Path):
    for checkpoint, options, message in (
        (public, {"data": str(photos)}, "has no head for the classes .* --knn 20"),
        (public, {"knn": 3}, "with --data and --knn 20"),
        (public, {"knn": 3, "data": str(photos), "tta": True}, "without --tta"),
        (public, {"knn": 3, "data": str(photos)}, "name the model of these weights"),
        (public, {"knn": 3, "data": str(photos), "split": "train"}, "would find itself"),
        (public, {"knn": 3, "data": str(photos.with_name("ein Ordnr"))}, "ein Ordner"),
        (public, {"knn": 3, "data": str(photos / "train"), "split": "test"}, "no test split; it has train"),
        (public.with_name("no.npz"), {"knn": 3, "data": str(photos), "model": "deit_ti16"}, "does not exist"),
        (public, {"knn": 3, "data": str(photos), "model": "deit_ti16", "image_size": 30}, "not a multiple"),
        (trained.run, {"model": "deit_ti16"}, "are for public weights"),
    ):
        with pytest.raises(UserError, match=message):
            evaluation.Evaluate(checkpoint=str(checkpoint), device="cpu", **options).run()
    shutil.copytree(photos, tmp_path / "photos")
    for file in (tmp_path / "photos" / "test").glob("*/*"):
        file.write_bytes(b"no image")
    options = {"knn": 3, "data": str(tmp_path / "photos"), "model": "deit_ti16", "image_size": 32}
    with pytest.raises(UserError, match="none of the images can be read"):
        evaluation.Evaluate(checkpoint=str(public), device="cpu", **options).run()


def test_flip_follows_the_recipe(trained: SimpleNamespace):
    def flips(choice: str, config: dict) -> bool:
        return mirrors(EvaluationOptions(tta_flip=choice), config)

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
    with pytest.raises(UserError, match="None of the 15 images"):
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
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(loose / "a.png")
    for options, message in (
        ({"knn": 5, "data": flat}, "no train split, which --knn needs; it has test"),
        ({"knn": 5, "split": "train"}, "would find itself"),
        ({"split": "val", "data": flat}, "Try --split test"),
        ({"batch_size": 0}, "at least 1"),
        ({"data": str(tmp_path / "many.csv")}, "any number of labels"),
        ({"data": str(trained.photos.with_name("ein Ordnr"))}, "ein Ordner"),
        ({"data": str(loose)}, "no class folders"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(trained, tmp_path, **options)
    with pytest.raises(UserError, match="There is no folder"):
        evaluation.Evaluate(checkpoint=str(trained.run), json=tmp_path / "missing" / "a.json").run()


def test_a_misspelt_option_exits_2_with_the_nearest_name():
    """FAULTS 59."""
    command = [sys.executable, ROOT / "eval.py", "run", "--batch-sise", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.sep)
    assert done.returncode == 2 and "--batch-size" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_checkpoint_is_one_message(trained: SimpleNamespace, capsys):
    missing = evaluation.Evaluate(checkpoint=str(trained.run.with_name("colour")))
    with pytest.raises(SystemExit) as stopped:
        run(missing.run)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert printed.err.startswith("Error: Checkpoint") and len(printed.err.splitlines()) == 1
    assert 'Did you mean "colors"' in printed.err
