"""Training, evaluation and prediction as a user types them, on scikit-learn's digits written out as class folders."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.small_data import write_digits
from vit.commands import train
from vit.commands.exit import run as run_command
from vit.errors import Stopped
from vit.training.log import read_rows

ROOT = Path(__file__).parents[2]
CHOSEN = [] if find_spec("albumentations") else ["--augment", "light"]
"""The augmentation chosen for digits rotates them."""
BRIEF = ["--device", "cpu", "--batch-size", "48", *CHOSEN]
"""240 training images: 5 steps an epoch."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("a user")


@pytest.fixture(scope="module")
def folder(place):
    return write_digits(place / "ten digits", 30)


def typed(*words, cwd):
    """Run a command in a process of its own, as typed in a shell."""
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.fixture
def command(capsys):
    """command("folder", ...) -> (exit code, stdout, stderr) of train.py, without the start of another Python.

    An exception that the command does not turn into a message fails the test.
    """

    def call(*words):
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: train.main([str(word) for word in words]))
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return call


@pytest.fixture(scope="module")
def trained(place, folder):
    """A run folder made by the command, and what it said."""
    out = place / "my run"
    options = ["--data", folder, "--out", out, "--epochs", 12, *BRIEF]
    done = typed(ROOT / "train.py", "folder", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_what_a_run_leaves_behind(trained):
    run, told = trained
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    assert files >= {
        "config.yaml",
        "metrics.jsonl",
        "metrics.csv",
        "report.json",
        "curves.png",
        "confusion.png",
        "checkpoints/best/model.safetensors",
        "checkpoints/best/config.json",
        "checkpoints/last/trainer.pt",
    }
    assert not [name for name in files if name.endswith((".new", ".old"))]
    assert "240 training images, 10 classes, median size 8x8, grayscale. Chosen:" in told
    assert "img/s" in told and "left" in told and "top-1" in told.lower()
    report = json.loads((run / "report.json").read_text())
    assert report["n"] > 0 and report["top1"] > 0.5


@pytest.mark.slow
def test_evaluation_and_prediction_by_the_checkpoint_alone(trained, place, folder):
    run, _ = trained
    done = typed(ROOT / "eval.py", run, "--json", place / "figures.json", cwd=place)
    assert done.returncode == 0, done.stderr
    figures = json.loads((place / "figures.json").read_text())
    wanted = {"task", "split", "n", "top1", "top5", "macro_f1", "ece", "top1_ci95", "per_class"}
    report = json.loads((run / "report.json").read_text())
    if figures["split"] == report["split"]:
        assert {key: figures[key] for key in wanted} == {key: report[key] for key in wanted}

    image = folder / "7" / "scan 7 0.png"
    done = typed("-m", "vit", "predict", run, image, "--json", "--top", 3, cwd=place)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["label"] in [str(i) for i in range(10)] and len(answer["top"]) == 3
    assert answer["source"] == str(image)


@pytest.mark.slow
def test_a_new_users_minute(tmp_path, monkeypatch):
    """All 1,797 digits: train, evaluate, predict, with no option but where the data is."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for a busy core would count as work
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    data = write_digits(tmp_path / "data", 1000)
    assert typed(ROOT / "train.py", "folder", "--data", data, "--out", tmp_path / "run", cwd=tmp_path).returncode == 0
    done = typed(ROOT / "eval.py", tmp_path / "run", "--json", tmp_path / "figures.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["top1"] >= 0.97
    done = typed("-m", "vit", "predict", tmp_path / "run", data / "3", "--json", cwd=tmp_path)
    answers = json.loads(done.stdout)
    assert np.mean([answer["label"] == "3" for answer in answers]) > 0.97
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # A minute on two cores. Time of the processor, since others use the machine too.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 120


@pytest.fixture(scope="module")
def parity(place):
    """The same images in two other classes."""
    return write_digits(place / "parity", 6, name=lambda digit: "odd" if digit % 2 else "even")


def test_row_5_finetune_on_other_classes(command, trained, parity, tmp_path):
    out = tmp_path / "tuned"
    code, told, err = command(
        "finetune", "--weights", trained[0], "--data", parity, "--out", out, "--epochs", 2, *BRIEF
    )
    assert code == 0, err
    assert told.count("New head for 2 classes (the checkpoint has 10).") == 1
    config = json.loads((out / "checkpoints/best/config.json").read_text())
    assert config["classes"] == ["even", "odd"]
    before = load_file(trained[0] / "checkpoints/best/model.safetensors")
    after = load_file(out / "checkpoints/best/model.safetensors")
    assert after["head.weight"].shape == (2, 128)
    change = (after["encoder.blocks.0.mlp.fc1.weight"] - before["encoder.blocks.0.mlp.fc1.weight"]).abs().max()
    assert 0 < change < 0.05


def test_probe_trains_the_head_only(command, trained, parity, tmp_path):
    out = tmp_path / "probe"
    code, told, err = command("probe", "--weights", trained[0], "--data", parity, "--out", out, "--epochs", 3, *BRIEF)
    assert code == 0, err
    assert told.count("The encoder is frozen") == 1
    before = load_file(trained[0] / "checkpoints/best/model.safetensors")
    after = load_file(out / "checkpoints/best/model.safetensors")
    assert before.keys() == after.keys()
    differ = {name for name in after if not torch.equal(before[name], after[name])}
    assert differ == {"head.weight", "head.bias"}


def interrupted_at(patch, stop):
    """Ctrl-C in a step, counted from the start of the command."""
    import vit.training.engine

    calls, step = iter(range(10_000)), vit.training.engine.train_step

    def train_step(*args):
        if next(calls) == stop:
            raise Stopped(signal.SIGINT)
        return step(*args)

    patch.setattr(vit.training.engine, "train_step", train_step)


def test_lora_leaves_plain_checkpoints_and_is_resumed(command, trained, parity, tmp_path, monkeypatch):
    import vit

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--weights", trained[0], "--data", parity, "--epochs", 4, "--lora-rank", 3, "--ema", 0.9]
    options += ["--drop-path", 0.2, "--lr", 1e-2, "--device", "cpu", "--batch-size", 16, *CHOSEN]  # 3 steps an epoch
    code, told, err = command("finetune", "--out", whole, *options)
    assert code == 0, err
    assert "LoRA of rank 3 on 16 linear layers; only it and the head are trained." in told
    width, mlp = 128, 512
    learned = 4 * 3 * (8 * width + 2 * (width + mlp)) + 2 * width + 2
    assert f"parameters ({learned:,} trainable)" in told

    with monkeypatch.context() as patch:
        interrupted_at(patch, 7)
        assert command("finetune", "--out", broken, *options)[0] == 130
    assert command("finetune", "--out", broken, "--resume", *options)[0] == 0
    base = load_file(trained[0] / "checkpoints/best/model.safetensors")
    for name in ("best", "last"):
        one, other = (load_file(run / "checkpoints" / name / "model.safetensors") for run in (whole, broken))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert one.keys() == base.keys()  # nothing of LoRA
        changed = {key for key in one if not torch.equal(one[key], base[key])}
        layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        updated = {f"encoder.blocks.{i}.{layer}.weight" for i in range(4) for layer in layers}
        assert changed == updated | {"head.weight", "head.bias"}
        for key in updated:
            for update in (one[key] - base[key]).chunk(3 if "qkv" in key else 1):
                assert torch.linalg.matrix_rank(update.double(), rtol=1e-3) == 3
        vit.load(whole / "checkpoints" / name)
    assert "lora" not in json.dumps(json.loads((whole / "checkpoints/best/config.json").read_text())["model"])


def test_the_head_first_and_frozen_blocks_as_typed(command, trained, parity, tmp_path):
    out = tmp_path / "run"
    options = ["--weights", trained[0], "--data", parity, "--out", out, "--device", "cpu", "--batch-size", 16]
    options += ["--epochs", 3, "--head-epochs", 1, "--freeze-blocks", 2, *CHOSEN]
    code, told, err = command("finetune", *options)
    assert code == 0, err
    assert "The patch embedding, the positions and 2 of 4 blocks are frozen." in told
    assert "Up to epoch 1, only the head is trained." in told and "trainable)" in told
    before, after = (load_file(run / "checkpoints/last/model.safetensors") for run in (trained[0], out))
    differ = {
        name for name in after if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }
    stays = ("encoder.patch_embed", "encoder.pos_embed", "encoder.blocks.0.", "encoder.blocks.1.")
    assert differ == {name for name in after if not name.startswith(stays)}


def test_what_is_trained_is_told_by_a_dry_run(command, trained, parity, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--weights", trained[0], "--data", parity, "--dry-run", *BRIEF, "--lora-rank", 2, "--freeze-blocks", 3]
    code, told, err = command("finetune", *options)
    learned = 2 * (8 * 128 + 2 * (128 + 512)) + 2 * 128 + 2
    assert code == 0 and f"({learned:,} trainable)" in told, err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["probe", "--lora-rank", 4], "the recipe probe train only the head. Use --lora-rank with finetune"),
        (["finetune", "--lora-rank", 0], "--lora-rank must be at least 1, got 0"),
        (["finetune", "--lora-rank", 1000], "--lora-rank 1000 is above the rank of qkv, a matrix of 128x128"),
        (["finetune", "--freeze-blocks", 5], "--freeze-blocks 5: the model has 4 blocks"),
        (["finetune", "--head-epochs", 9, "--epochs", 9], "--head-epochs 9 leaves none of --epochs 9"),
    ],
    ids=lambda words: " ".join(map(str, words)) if isinstance(words, list) else "",
)
def test_mistakes_in_what_is_kept(command, trained, parity, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(words[0], "--weights", trained[0], "--data", parity, *words[1:])
    assert code == 2 and told in " ".join(err.split())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("recipe", ["finetune", "probe"])
def test_weights_are_asked_for(command, folder, recipe):
    code, _, err = command(recipe, "--data", folder)
    assert code == 2 and f"Error: {recipe} starts from a checkpoint: add --weights RUN" in err


def test_row_1_a_missing_path(command, place, folder, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = command("folder", "--data", "ten digitz")
    assert code == 2
    assert err == f'Error: ten digitz: no such data (current folder: {place}). Did you mean "ten digits"?\n'
    assert not (place / "runs").exists()


def test_row_2_an_empty_folder(command, tmp_path):
    code, _, err = command("folder", "--data", tmp_path)
    assert code == 2 and err.startswith(f"Error: {tmp_path}")


def test_row_4_train_and_val_have_other_classes(command, tmp_path):
    write_digits(tmp_path / "train", 2)
    write_digits(tmp_path / "val", 2, name=lambda digit: "seven" if digit == 7 else str(digit))
    code, _, err = command("folder", "--data", tmp_path)
    assert code == 2 and "seven" in err and "7" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["folder", "--epocs", "3"], "--epochs"),
        (["--batch-sise", "3"], "--batch-size"),
        (["fodler"], 'Did you mean "folder"'),
        (["folder", "--augment", "lihgt"], "light"),
        (["folder", "--data", "x", "--epochs", "0"], "--epochs must be at least 1"),
        (["folder", "photos"], "Is it the data? vitral train folder --data photos"),
        (["tests", "--epochs", "3"], "Is it the data? vitral train folder --data tests"),
    ],
    ids=" ".join,
)
def test_row_59_a_misspelt_option(words, told, capsys):
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: train.main(words))
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and told in out + err


def test_row_59_in_a_process_of_its_own(tmp_path):
    done = typed(ROOT / "train.py", "--epocs", "3", cwd=tmp_path)
    assert done.returncode == 2 and "--epochs" in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "No training data. Add --data DIR"),
        (["--data", "DATA", "--model", "vit_nanno8"], 'Did you mean "vit_nano'),
        (["--data", "DATA", "--model", "vit_nano8", "--image-size", 30], "not a multiple of the patch"),
        (["--data", "DATA", "--weights", "nowhere"], "Checkpoint nowhere does not exist"),
        (["--data", "DATA", "--lora-rank", 4], "--lora-rank keeps pretrained weights: add --weights"),
        (["--data", "DATA", "--device", "tpu"], "tpu"),
        (["--data", "DATA", "--dropout", 1.5], "--dropout must be at least 0 and below 1"),
        (["--data", "DATA", "--resume", "--out", "nowhere"], "nowhere holds no run to resume"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_mistakes_in_options(command, folder, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("folder", *(folder if option == "DATA" else option for option in options))
    assert code == 2 and told in " ".join(err.split())
    assert os.listdir(tmp_path) == []


def test_dry_run_writes_nothing(command, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told, _ = command("folder", "--data", folder, "--dry-run", "--epochs", 10, *BRIEF)
    assert code == 0 and os.listdir(tmp_path) == []
    for word in ("parameters", "FLOPs", "memory", "50 steps", "nothing was written"):
        assert word in told


@pytest.mark.slow
def test_resume_after_an_interruption_is_the_uninterrupted_run(command, folder, tmp_path, monkeypatch):
    options = ["--data", folder, "--epochs", 3, "--mixup", 0.5, "--drop-path", 0.2, "--dropout", 0.1, *BRIEF]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert command("folder", "--out", whole, *options)[0] == 0
    with monkeypatch.context() as patch:
        interrupted_at(patch, 12)
        code, told, err = command("folder", "--out", broken, *options)
        assert (
            code == 130 and f"with --out {shlex.quote(str(broken))} --resume continues from the last checkpoint" in told
        )
        assert err == "Interrupted.\n"
    code, _, err = command("folder", "--out", broken, *options)
    assert code == 2 and "already holds a run. Add --resume" in err
    code, _, err = command("folder", "--out", broken, "--resume", *options, "--seed", 5)
    assert code == 2 and "started with other options (seed: 0 -> 5)" in err
    assert command("folder", "--out", broken, "--resume", *options)[0] == 0

    def rows(run):
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_rows(run / "metrics.jsonl")]

    assert rows(broken) == rows(whole)
    for name in ("best", "last"):
        one, other = (load_file(run / "checkpoints" / name / "model.safetensors") for run in (broken, whole))
        assert all(torch.equal(one[k], other[k]) for k in one)
    one, other = (json.loads((run / "report.json").read_text()) for run in (broken, whole))
    assert one == other


def test_minutes_choose_the_length_once(command, folder, tmp_path, monkeypatch):
    """A run that is to end in time is the run of as many epochs; when it is resumed, the clock is not asked again."""
    import vit.training.budget

    options = ["--data", folder, "--model", "vit_nano8", *BRIEF]
    timed, plain = tmp_path / "timed", tmp_path / "plain"
    with monkeypatch.context() as patch:
        patch.setattr(vit.training.budget, "pace", lambda *_, **__: 2.5)
        interrupted_at(patch, 7)
        code, told, _ = command("folder", "--out", timed, *options, "--minutes", 1)
        assert code == 130 and re.search(r"3 of \d+ epochs fit into 1 minutes at 2500 ms a step", told)
    code, _, err = command("folder", "--out", timed, *options, "--resume")
    assert code == 2 and "started with other options" in err and "minutes: 1.0 -> None" in err
    assert command("folder", "--out", timed, *options, "--minutes", 1, "--resume")[0] == 0
    assert command("folder", "--out", plain, *options, "--epochs", 3)[0] == 0
    one, other = (load_file(run / "checkpoints/last/model.safetensors") for run in (timed, plain))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_every_option_of_training_is_accepted(command, folder, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    (data / "3" / "broken.png").write_bytes((data / "3" / "scan 3 0.png").read_bytes()[:60])
    options = [
        "--model", "vit_nano8_rope", "--image-size", 16, "--resize", "letterbox", "--augment", "augreg",
        "--flip", "yes", "--erase", 0.2, "--cutmix", 1.0, "--optimizer", "adamw", "--l1", 1e-6,
        "--layer-decay", 0.9, "--warmup", 1, "--final-lr", 0.1, "--clip", "None", "--accumulate", 3, "--ema", 0.9,
        "--attention-dropout", 0.1, "--layer-scale", 0.1, "--balanced", "--class-weights", "--amp", "bf16",
        "--eval-every", 2, "--patience", 3, "--workers", 1, "--seed", 7,
    ]  # fmt: skip
    out = tmp_path / "run"
    code, told, err = command("folder", "--data", data, "--out", out, "--epochs", 2, *BRIEF, *options)
    assert code == 0, err
    bad = (out / "bad_files.csv").read_text() if (out / "bad_files.csv").exists() else ""
    report = json.loads((out / "report.json").read_text())
    # The broken file is in one of the splits, and is told of there.
    assert ("broken.png" in bad) or ("broken.png" in json.dumps(report["unreadable"])) or ("broken.png" in told)


def test_row_33_too_many_broken_files_stop_the_training_and_are_listed(command, folder, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    for i in range(8):
        path = data / "3" / f"scan 3 {i}.png"
        path.write_bytes(path.read_bytes()[:60])
    out = tmp_path / "run"
    code, _, err = command("folder", "--data", data, "--out", out, "--epochs", 2, *BRIEF)
    assert code == 2 and "training images cannot be decoded, more than 1%" in err
    rows = (out / "bad_files.csv").read_text().splitlines()
    assert rows[0] == "path,reason" and len(rows) > 2
    assert all("scan 3 " in row and "cannot be decoded" in row for row in rows[1:])


@pytest.mark.albumentations
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_cache_changes_nothing_where_pixels_are_resized_first(command, folder, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path / "cache"))
    options = ["folder", "--data", folder, "--epochs", 2, *BRIEF, "--augment", "glyph"]
    reports = {}
    for name, more in (("without", []), ("with", ["--cache", kind])):
        out = tmp_path / name
        code, told, err = command(*options, "--out", out, *more)
        assert code == 0, err
        reports[name] = json.loads((out / "report.json").read_text())
        assert ("images as the model takes them in" in told) == bool(more)
    assert reports["with"] == reports["without"]
    assert (tmp_path / "cache").exists() == (kind == "disk")


def test_several_labels_an_image(command, folder, tmp_path):
    lines = ["path,labels"]
    for digit in range(10):
        for i in range(20):
            labels = ["odd" if digit % 2 else "even"] + (["large"] if digit >= 5 else [])
            lines.append(f"{folder / str(digit)}/scan {digit} {i}.png,{';'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "run"
    code, _, err = command("folder", "--data", tmp_path / "labels.csv", "--out", out, "--epochs", 2, *BRIEF)
    assert code == 0, err
    config = json.loads((out / "checkpoints/best/config.json").read_text())
    assert config["multilabel"] and sorted(config["classes"]) == ["even", "large", "odd"]
    assert json.loads((out / "report.json").read_text())["map"] > 0
