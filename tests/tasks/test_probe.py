"""The linear probe: features computed once give the head that images would, and a checkpoint like any other."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vit
import vit.tasks.classification.feed
from vit.commands import eval as evaluation
from vit.commands import train
from vit.commands.exit import run as run_command
from vit.errors import Stopped
from vit.model.encoder import Encoder
from vit.training.log import read_rows

IMAGES = 36 + 18 + 15
"""In train, val and test of the photos."""
VAL = 18
"""Of which the report reads again, as `vitral eval` does, what the temperature is fitted on."""


@pytest.fixture
def data(photos, tmp_path) -> Path:
    """The photos under other class names, so that the head is new; one training image cannot be read."""
    root = tmp_path / "photos"
    for folder in photos.glob("*/*"):
        shutil.copytree(folder, root / folder.parent.name / f"class {folder.name[0]}")
    broken = root / "train" / "class b" / "tile 3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


@pytest.fixture
def command(capsys):
    """command(...) -> (exit code, stdout, stderr) of train.py probe."""

    def call(*words):
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: train.main(["probe", "--device", "cpu", "--amp", "none", *map(str, words)]))
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return call


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """The sizes of the batches that go through an encoder."""
    sizes, forward = [], Encoder.forward

    def counted(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counted)
    return sizes


def weights_of(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / name / "model.safetensors")


def rows_of(run: Path) -> list[dict]:
    clock = ("images_per_second", "phase")
    return [{k: v for k, v in row.items() if k not in clock} for row in read_rows(run / "metrics.jsonl")]


def test_every_image_goes_through_the_encoder_once_in_training(command, trained, data, tmp_path, seen):
    out = tmp_path / "probe"
    code, told, err = command("--data", data, "--weights", trained.run, "--out", out, "--epochs", 30)
    assert code == 0, err
    assert sum(seen) == IMAGES - 1 + VAL  # all but the one that cannot be read
    assert "Computing the features of 36 images with the frozen encoder, once." in told
    assert "tile 3.png" in (out / "bad_files.csv").read_text()
    before, after = weights_of(trained.run), weights_of(out)
    assert before.keys() == after.keys()
    differ = {name for name in after if not torch.equal(before[name], after[name])}
    assert differ == {"head.weight", "head.bias"}
    assert json.loads((out / "report.json").read_text())["top1"] == pytest.approx(0.8)  # see conftest.py


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--batch-size", 1, "--accumulate", 2],
        [
            *("--balanced", "--class-weights", "--ema", 0.9, "--label-smoothing", 0.1, "--l1", 1e-4, "--amp", "bf16"),
            *("--batch-size", 8, "--accumulate", 3, "--dropout", 0.3, "--drop-path", 0.5, "--weight-decay", 0.3),
        ],
    ],
    ids=["default", "one image a batch", "other options"],
)
def test_the_head_is_the_one_that_images_give(command, trained, data, tmp_path, monkeypatch, seen, options):
    """With the same seed and order, to the last digits of float32; dropout before the head included."""
    weights = shutil.copytree(trained.run, tmp_path / "weights")
    config = weights / "checkpoints/best/config.json"
    values = json.loads(config.read_text())
    values["model"]["head_dropout"] = 0.25
    config.write_text(json.dumps(values))
    common = ["--data", data, "--weights", weights, "--epochs", 4, "--eval-every", 2, *options]
    assert command(*common, "--out", tmp_path / "once")[0] == 0
    assert sum(seen) == IMAGES - 1 + VAL
    seen.clear()
    monkeypatch.setattr(vit.tasks.classification.feed, "trains_head_only", lambda model: False)
    assert command(*common, "--out", tmp_path / "again")[0] == 0
    assert sum(seen) > 4 * 35
    close = {"rtol": 1e-4, "atol": 1e-5} if "bf16" not in options else {"rtol": 1e-2, "atol": 2e-3}
    for name in ("best", "last"):
        once, again = weights_of(tmp_path / "once", name), weights_of(tmp_path / "again", name)
        torch.testing.assert_close(once, again, **close)
        assert not torch.equal(once["head.weight"], torch.zeros(3, 32))
    for one, other in zip(rows_of(tmp_path / "once"), rows_of(tmp_path / "again"), strict=True):
        assert one == pytest.approx(other, rel=1e-3 if "bf16" not in options else 5e-2)
    one, other = (json.loads((tmp_path / run / "report.json").read_text()) for run in ("once", "again"))
    assert one["confusion"] == other["confusion"] and one["temperature"] == pytest.approx(other["temperature"], rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [["--flip", "yes"], ["--mixup", 0.2], pytest.param(["--augment", "glyph"], marks=pytest.mark.albumentations)],
    ids=str,
)
def test_images_that_change_go_through_in_every_epoch(command, trained, data, tmp_path, seen, changes):
    options = ["--data", data, "--weights", trained.run, "--out", tmp_path / "run", "--epochs", 3, *changes]
    code, told, err = command(*options)
    assert code == 0, err
    assert sum(seen) > IMAGES + 2 * 35 and "the frozen encoder processes them again in every epoch" in told


def test_the_checkpoint_is_one_like_any_other(command, trained, data, tmp_path):
    import vit.__main__ as cli

    run = tmp_path / "probe"
    assert command("--data", data, "--weights", trained.run, "--out", run, "--epochs", 30)[0] == 0
    report = json.loads((run / "report.json").read_text())
    evaluation.Evaluate(checkpoint=str(run), json=tmp_path / "figures.json", device="cpu", knn=5).run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    # The features of a probe are those of the weights it started from.
    encoder = vit.load(trained.run, device="cpu")
    file = data / "test" / "class g" / "tile 0.png"
    torch.testing.assert_close(vit.load(run, device="cpu").features(file), encoder.features(file), rtol=0, atol=0)
    assert figures["knn"]["memory"] == 35 and figures["knn"]["top1"] == pytest.approx(0.8)
    assert {k: figures[k] for k in ("n", "top1", "confusion")} == {k: report[k] for k in ("n", "top1", "confusion")}
    assert figures["loss"] == pytest.approx(report["loss"], rel=1e-5)
    assert figures["temperature"] == pytest.approx(report["temperature"], rel=1e-3)
    assert vit.load(run, device="cpu").predict(file).label == "class g"
    assert cli.command(["convert", str(run), str(tmp_path / "out.safetensors"), "--to", "timm"]) == 0
    assert load_file(tmp_path / "out.safetensors")["head.weight"].shape == (3, 32)


def test_resume_goes_on_with_the_encoder_it_began_with(command, trained, data, tmp_path, monkeypatch, seen):
    import vit.training.engine

    weights = shutil.copytree(trained.run, tmp_path / "weights")
    options = ["--data", data, "--weights", weights, "--epochs", 6, "--batch-size", 8, "--eval-every", 2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert command("--out", whole, *options)[0] == 0
    calls, step = iter(range(100)), vit.training.engine.train_step

    def interrupted(*args):
        if next(calls) == 14:
            raise Stopped(signal.SIGINT)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(vit.training.engine, "train_step", interrupted)
        assert command("--out", broken, *options)[0] == 130
    # Whatever becomes of the weights meanwhile.
    file = weights / "checkpoints/best/model.safetensors"
    save_file({name: tensor + 0.5 for name, tensor in load_file(file).items()}, file)
    file.with_name("SHA256SUMS").unlink()
    seen.clear()
    assert command("--out", broken, "--resume", *options)[0] == 0
    assert sum(seen) == IMAGES - 1 + VAL
    for name in ("best", "last"):
        one, other = weights_of(broken, name), weights_of(whole, name)
        assert all(torch.equal(one[k], other[k]) for k in other)
    assert rows_of(broken) == rows_of(whole)
    assert (broken / "report.json").read_text() == (whole / "report.json").read_text()


def test_several_labels_an_image(command, trained, data, tmp_path):
    lines = [
        f"{file},{file.parent.name[-1]};{'early' if int(file.stem[-1]) < 3 else 'late'}"
        for file in sorted((data / "val").glob("*/*"))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,labels", *lines]) + "\n", encoding="utf-8")
    code, _, err = command("--data", tmp_path / "labels.csv", "--weights", trained.run, "--out", tmp_path / "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run/report.json").read_text())["map"] > 0.5


def test_dry_run_counts_one_pass(command, trained, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, told, err = command("--data", data, "--weights", trained.run, "--dry-run", "--batch-size", 10)
    assert code == 0, err
    assert "7 steps" in told and sorted(tmp_path.iterdir()) == before  # 69 images


def test_too_many_unreadable_images(command, trained, data, tmp_path):
    """FAULTS 33: told before the head is trained."""
    (data / "train" / "class g" / "tile 5.png").write_bytes(b"no image")
    code, _, err = command("--data", data, "--weights", trained.run, "--out", tmp_path / "run")
    assert code == 2 and "2 of 36 training images cannot be decoded" in err
