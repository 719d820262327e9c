"""The benchmarks of detection, start, whole epochs and growth, as far as they can be tested without their minutes."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import benchmarks.__main__
from benchmarks import checkpointing, contest, detect, endtoend, growth, merging, start
from benchmarks.__main__ import NAMES
from benchmarks.detect import check_equal, training
from benchmarks.endtoend import Runner
from benchmarks.rfdetr_peers import Contestant
from benchmarks.turns import Turns
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import create
from vit.runs.checkpoint import load_trainer, save_checkpoint


def answering(shift: float) -> Contestant:
    def answer(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean((2, 3)) + shift, images.mean((2, 3))

    return Contestant(nn.Linear(1, 1), answer, lambda images, targets: images.sum())


def test_only_equal_answers_are_timed():
    assert check_equal("same", answering(0), answering(0)) == (0, 0)
    with pytest.raises(UserError, match=r"ours and other differ by 1\.0e-02 in logits"):
        check_equal("other", answering(0), answering(0.01))


def test_targets_of_the_training_step_are_boxes_within_the_image():
    seen = []
    model = nn.Linear(1, 1)

    def loss(images: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        seen.extend(targets)
        return model(images.mean().view(1)).sum()

    before = model.weight.clone()
    training(Contestant(model, lambda x: (x, x), loss), torch.randn(3, 3, 4, 4), "fp32")()  # pyright: ignore
    assert len(seen) == 3 and not torch.equal(before, model.weight)
    for target in seen:
        boxes = target["boxes"]
        assert (boxes[:, :2] - boxes[:, 2:] / 2 > 0).all() and (boxes[:, :2] + boxes[:, 2:] / 2 < 1).all()
        assert len(target["labels"]) == len(boxes) and target["labels"].max() < 91


def test_waiting_and_working_are_told_apart():
    clock = itertools.count()
    time = [0.0]

    def batches():
        for i in clock:
            time[0] += 3  # seconds until there is a batch
            yield i

    def step(batch: int) -> None:
        time[0] += 1

    runner = Runner(batches(), step, lambda: time[0], [], [])
    runner.run(2)
    runner.run(2)
    assert runner.waited == [3, 3] and runner.worked == [1, 1]
    assert runner.seconds == [4, 4] and runner.waiting.median == 0.75
    assert "| ours | 16.0 | 1.00 (1.00 to 1.00) | 75.0% |" in endtoend.lines(
        Turns({"ours": runner.seconds, "timm": runner.seconds}), {"ours": runner}, 64
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves its files open
def test_both_train_from_the_same_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [
        "--images",
        "6",
        "--batch-size",
        "3",
        "--turn",
        "1",
        "--settings",
        "fp32",
        "--folder",
        str(tmp_path / "i"),
    ]
    endtoend.main([*options, "--json", str(tmp_path / "r.json")])
    said = capsys.readouterr().out
    assert "| ours |" in said and "| timm |" in said and (tmp_path / "r.json").stat().st_size > 100


def test_options_that_would_tell_something_wrong_are_refused():
    with pytest.raises(UserError, match="--clock cpu does not count: add --clock wall"):
        endtoend.Options(workers=2)
    with pytest.raises(UserError, match="--peers needs one at least"):
        detect.Options(peers=())


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_is_measured(name: str, capsys: pytest.CaptureFixture[str]):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join((module.__doc__ or "").split())[:60] in said


def test_a_result_has_a_place_and_tells_where_it_was_measured(tmp_path: Path):
    file = tmp_path / "new" / "r.json"
    o = contest.parsed(merging.Options, ["--checkpoint", "c", "--json", str(file)], "merging", None)
    contest.write(o.json, {"a": 1})
    told = json.loads(file.read_text())
    assert told["a"] == 1 and {"cpu", "threads", "python", "torch", "timm"} <= set(told["machine"])
    with pytest.raises(UserError, match="is a folder: name a file"):
        contest.parsed(merging.Options, ["--checkpoint", "c", "--json", str(tmp_path)], "merging", None)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    def missing(arguments: list[str]) -> None:
        raise ModuleNotFoundError("no", name="rfdetr.config")

    monkeypatch.setattr(sys, "argv", ["benchmarks", "merging"])
    monkeypatch.setattr(merging, "main", missing)
    with pytest.raises(UserError, match=r"merging needs the package rfdetr: pip install"):
        benchmarks.__main__.main()


def test_exponents_of_boxes_are_told(capsys: pytest.CaptureFixture[str]):
    growth.main(["--what", "boxes", "images", "--boxes", "2", "8", "--images", "4", "16", "--rounds", "1"])
    said = capsys.readouterr().out
    assert "| what | 2 | 8 | exponent | of the last two |" in said and "| COCO metrics, ms |" in said
    assert "| opening a folder, ms |" in said


def test_growth_is_fitted(monkeypatch: pytest.MonkeyPatch):
    """Runs whose time and memory grow with the square and with the size itself."""
    monkeypatch.setattr(growth, "take_turns", lambda runs, *_, **__: Turns({k: [float(k) ** 2] for k in runs}))
    monkeypatch.setattr(growth, "peak_memory", lambda run: run())
    found = growth.grown({float(n): lambda n=n: 3 * n for n in (4, 8, 16)}, growth.Options())
    assert found["time"] == pytest.approx((2, 2)) and found["memory"] == pytest.approx((1, 1))


def test_scripts_of_the_peers_are_python():
    for script in (start.TIMM, start.TORCHVISION, start.TRANSFORMERS, start.AUTO, start.TIMM_TRAINING):
        compile(script, "script", "exec")


def test_a_command_that_fails_is_no_time(tmp_path: Path):
    command = [sys.executable, "-S", "-c", "import sys; print('why'); sys.exit(3)"]
    with pytest.raises(UserError, match=r"exit code 3\. why"):
        start.seconds(command, "cpu", tmp_path, ours=False)
    used = start.seconds([sys.executable, "-S", "-c", "sum(range(4_000_000))"], "cpu", tmp_path, ours=False)
    assert 0.02 < used < 20


@pytest.mark.slow
def test_everyone_starts(tmp_path: Path):
    for package in ("transformers", "timm"):
        pytest.importorskip(package)
    code = f"from benchmarks import start\nstart.main(['--rounds', '1', '--json', {str(tmp_path / 'r.json')!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("### import", "### predict", "### dry-run", "| pipeline |", "| vitral predict |"):
        assert name in done.stdout


@pytest.mark.slow
def test_our_rfdetr_is_theirs():
    for package in ("transformers", "rfdetr"):
        pytest.importorskip(package)
    code = "from benchmarks import detect\ndetect.main('--batches 1 --training-batch 1 --rounds 1'.split())"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ours and rfdetr: largest difference" in done.stdout and "### training, batch 1" in done.stdout


@pytest.mark.slow
def test_merging_is_judged_on_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = create("vit_nano8_mean", num_classes=10, image_size=32)
    preprocess = Preprocess((32, 32), resize="squash").to_dict()
    config = {"task": "classification", "model": model.config.to_dict(), "preprocess": preprocess}
    save_checkpoint(tmp_path / "c", model.state_dict(), {**config, "classes": [str(k) for k in range(10)]})
    merging.main(["--checkpoint", str(tmp_path / "c"), "--counts", "0", "3", "--rounds", "1"])
    said = capsys.readouterr().out
    assert "| 3 | 16 to 4 |" in said and "1.00 (1.00 to 1.00)" in said


def test_turns_differ_by_one_checkpoint_on_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = checkpointing.Options(model="vit_nano8", image_size=16, batch=2, every=4, rounds=2)
    training = checkpointing.Training(options, tmp_path / "here")
    training.turn(False)
    assert not (tmp_path / "here").exists() and not training.waited
    training.turn(True)
    assert [folder.name for folder in (tmp_path / "here").iterdir()] == ["last"] and len(training.waited) == 1
    state = load_trainer(tmp_path / "here/last")
    assert state["progress"]["step"] == 2 and state["ema"] is not None and len(state["optimizers"]) == 1
    words = ["--model", "vit_nano8", "--image-size", "16", "--every", "4", "--rounds", "2", "--folder", str(tmp_path)]
    checkpointing.main([*words, "--json", str(tmp_path / "found.json")])
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("here", "found.json")] == []
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["waited"]) >= 3 and found["bytes"] > 4 * 4 * 100_000  # weights, average and two moments
    assert "| with |" in capsys.readouterr().out
