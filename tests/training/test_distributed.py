"""Several processes are one: gradients, metrics, order, checkpoints (rows 41, 52, 53), over gloo."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.small_data import write_digits
from tests.training.dying import AGENTS
from tests.training.ranks import ROOT, run_ranks

SIZES = {"width": 16, "heads": 2, "mlp": 32, "depth": 2}


def classifier():
    import vit
    from vit.tasks.classification.loss import ClassificationLoss
    from vit.tasks.classification.task import Classification

    torch.manual_seed(0)
    # No class token, whose slope at the start is a thousand times that of the rest, rounding included.
    model = vit.create("vit_nano4_mean", num_classes=10, image_size=28, **SIZES)
    weights = torch.linspace(0.2, 2.0, 10)
    loss = ClassificationLoss(10, class_weights=weights, label_smoothing=0.1, l1=1e-4)
    return Classification(model, [str(i) for i in range(10)], loss)


def detector(classes=3):
    from vit.detector import Detector, DetectorConfig
    from vit.model.config import EncoderConfig
    from vit.tasks.detection.loss import DetectionLoss
    from vit.tasks.detection.task import Detection

    torch.manual_seed(0)
    encoder = EncoderConfig(32, 1, 2, 64, patch_size=8, image_size=(64, 64), class_token=False, final_norm=False)
    head = {"layers": 2, "heads": 2, "sampling_heads": 2, "points": 2, "mlp": 32, "queries": 12, "groups": 2}
    model = Detector(DetectorConfig(encoder, num_classes=classes, taps=(1,), neck_blocks=1, width=32, **head))
    return Detection(model, "abcdefghij"[:classes], DetectionLoss(classes), (64, 64))


def pictures(n, objects=()):
    """A global batch: images and, with `objects`, as many boxes an image; else classes."""
    generator = torch.Generator().manual_seed(1)
    if not objects:
        images = torch.randn(n, 3, 28, 28, generator=generator)
        return SimpleNamespace(images=images, targets=torch.arange(n) % 10, index=torch.arange(n))
    images, targets = torch.randn(n, 3, 64, 64, generator=generator), []
    for count in objects:
        center = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
        boxes = torch.cat([center, torch.rand(count, 2, generator=generator) * 0.2 + 0.1], 1)
        labels = torch.randint(3, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "crowd": torch.zeros(count, dtype=torch.bool)})
    return SimpleNamespace(images=images, targets=targets, index=torch.arange(n))


def mine(batch, world):
    rows = slice(world.rank, None, world.size)
    return SimpleNamespace(images=batch.images[rows], targets=batch.targets[rows], index=batch.index[rows])


CASES = {
    "classification": (classifier, pictures(7), 1),
    "classification, in parts": (classifier, pictures(7), 2),
    "detection": (detector, pictures(5, (3, 0, 2, 1, 0)), 1),
    "detection, in parts": (detector, pictures(5, (3, 0, 2, 1, 0)), 2),
    "detection, nothing on one": (detector, pictures(5, (0, 2, 0, 3, 0)), 1),
    "detection, nothing at all": (detector, pictures(5, (0, 0, 0, 0, 0)), 1),
}


def judged(task, batches, world):
    """The metrics of all processes."""
    from vit.tasks.evaluation import evaluate

    return evaluate(task.model, lambda batch: task.predict(batch.images), batches, task.metrics(), world=world)[0]


def one_step_and_an_evaluation(place):
    from vit.optim.schedule import Loop
    from vit.processes.world import join, leave
    from vit.training.engine import train_step
    from vit.training.spread import spread

    world, found = join("cpu"), {}
    for name, (made, batch, parts) in CASES.items():
        task = made()
        task.model.train()
        for module in task.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()  # torch has no common statistics on a CPU
        rule = [torch.optim.SGD(task.model.parameters(), lr=1.0)]
        torch.manual_seed(0)
        loss = train_step(spread(task, world), mine(batch, world), rule, Loop(1, 1, accumulate=parts), None, world)
        found[name] = {"loss": loss, "weights": {k: v.clone() for k, v in task.model.state_dict().items()}}
    found["top1"] = judged(classifier(), digits_of(world), world).compute()
    found["map"] = judged(detector(10), scenes_of(world), world).compute()
    # A step that is not finite in one process is left out by all.
    task, batch = classifier(), pictures(7)
    batch.images[world.size - 1] = float("inf")
    rule = [torch.optim.SGD(task.model.parameters(), lr=1.0)]
    loss = train_step(spread(task, world), mine(batch, world), rule, Loop(1, 1), None, world)
    same = classifier().model.state_dict()
    assert not loss.isfinite() and all(torch.equal(v, same[k]) for k, v in task.model.state_dict().items())
    torch.save(found, f"{place}/{world.size}-{world.rank}.pt")
    leave()


def digits_of(world):
    """70 digits in batches of 16: 5, which neither 2 nor 3 processes can share evenly."""
    from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
    from vit.images.preprocess import Preprocess

    images = open_data("digits", kind="labels").val.select(np.arange(70))
    preprocess = Preprocess((28, 28), resize="squash", mean=(0.1,) * 3, std=(0.3,) * 3)
    return eval_loader(LabelReader(images, preprocess), LoaderOptions(batch_size=16, rank=world.rank, world=world.size))


def scenes_of(world):
    from vit.data.bundled import scenes
    from vit.data.load.box_reader import BoxReader
    from vit.data.load.loader import LoaderOptions, eval_loader
    from vit.data.open import open_data
    from vit.images.preprocess import Preprocess

    scenes.COUNTS = {"train": 1, "val": 7, "test": 1}
    data, preprocess = (
        open_data("scenes", kind="boxes"),
        Preprocess((64, 64), resize="squash", interpolation="bilinear"),
    )
    return eval_loader(BoxReader(data.val, preprocess), LoaderOptions(batch_size=2, rank=world.rank, world=world.size))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    run_ranks(one_step_and_an_evaluation, place, [1, 2, 3])
    return {
        size: [torch.load(place / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]
        for size in (1, 2, 3)
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_several_processes_is_that_of_one(processes, size, case):
    (whole,) = processes[1]
    for found in processes[size]:
        torch.testing.assert_close(found[case]["loss"], whole[case]["loss"], rtol=1e-6, atol=1e-6)
        for name, value in whole[case]["weights"].items():  # of a step of SGD at rate 1
            torch.testing.assert_close(found[case]["weights"][name], value, rtol=1e-6, atol=1e-6, msg=name)
    first, *others = processes[size]
    for found in others:
        assert all(torch.equal(v, first[case]["weights"][k]) for k, v in found[case]["weights"].items())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("figures", ["top1", "map"])
def test_row_52_the_figures_of_several_processes_are_exactly_those_of_one(processes, size, figures):
    (whole,) = processes[1]
    assert whole[figures]["n"] == (70 if figures == "top1" else 7)
    for found in processes[size]:
        assert found[figures] == whole[figures]


def sharded_and_copied(place):
    """The loss curve of the same steps with a copy of the model in every process, and with a part in each."""
    from vit.optim.optimizers import Ema, make_optimizers
    from vit.optim.schedule import Loop
    from vit.processes.world import join, leave
    from vit.runs.checkpoint import load_trainer
    from vit.runs.retention import save_last
    from vit.tasks.run import Parts
    from vit.training.engine import fit
    from vit.training.log import RunLog, Silent
    from vit.training.safety import Safety
    from vit.training.sharded import save_sharded, whole
    from vit.training.spread import recompute, shard, spread

    join("cpu")
    found = {}
    for kind in ("ddp", "fsdp", "fsdp, recomputed", "fsdp, resumed"):
        world = join("cpu", sharded=kind != "ddp")
        task = classifier()
        task.loss.l1 = 0.0
        if "recomputed" in kind:
            recompute(task.model)
        if world.sharded:
            shard(task.model, world, None)
        optimizers = make_optimizers(task.model, name="adamw", lr=3e-3, muon_lr=0.02, weight_decay=0.05)
        loop = Loop(steps=12, steps_per_epoch=6, accumulate=2, clip=1.0, log_every=1)
        ema = Ema(task.model, 0.9)
        checkpoints = Path(place) / f"{world.size} {kind.removesuffix(', resumed')}"
        resume = load_trainer(checkpoints / "step-4") if "resumed" in kind else None
        start = resume["progress"]["step"] if resume else 0
        batches = [mine(pictures(8 + step % 2), world) for step in range(start, 12)]

        def save(name, weights, numbers, state, checkpoints=checkpoints, world=world):
            if name == "last" and world.sharded:
                entries = {"model": {}, "step": state["progress"]["step"]}
                tensors = state.pop("tensors")
                save_sharded(
                    checkpoints / "sharded.new", tensors, world,
                    lambda shards: save_last(checkpoints, None, entries, state, 9, shards),
                )  # fmt: skip

        logs = Path(place) / f"log {world.size} {kind}"
        log = RunLog(logs, steps=12, start=start, console=Console(file=io.StringIO())) if world.main else Silent(12)
        safety = Safety(world=world, due=lambda step: step == 4, spread=lambda task, world=world: spread(task, world))
        safety.stop.alone = False

        def validation(world=world):
            return digits_of(world)

        with log:
            fit(Parts(task, batches, optimizers, loop, validation, ema=ema), log, save, resume=resume, safety=safety)
        metrics = judged(task, digits_of(world), world).scalars()
        state = whole(task.model.state_dict())
        found[kind] = {"weights": state, "average": whole(ema.state), "metrics": metrics}
        if world.main:
            found[kind]["losses"] = [row["loss"] for row in log.rows if row["phase"] == "train"]
    if world.main:
        torch.save(found, f"{place}/{world.size}.pt")
    leave()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    run_ranks(sharded_and_copied, place, [2, 3])
    return place


@pytest.mark.slow
def test_shards_learn_as_copies_do_and_are_resumed(shards):
    curves = {size: torch.load(shards / f"{size}.pt") for size in (2, 3)}
    for found in curves.values():
        for kind in ("fsdp", "fsdp, recomputed"):
            assert len(found["ddp"]["losses"]) == 12
            np.testing.assert_allclose(found[kind]["losses"], found["ddp"]["losses"], rtol=1e-5)
            for name, value in found["ddp"]["weights"].items():
                torch.testing.assert_close(found[kind]["weights"][name], value, rtol=1e-4, atol=1e-5)
            assert found[kind]["metrics"]["n"] == 70
        assert found["fsdp, resumed"]["losses"] == found["fsdp"]["losses"][4:]
        for part in ("weights", "average"):
            for name, value in found["fsdp"][part].items():
                assert torch.equal(found["fsdp, resumed"][part][name], value), name


@pytest.mark.slow
def test_one_file_is_made_of_shards_and_a_strange_index_is_refused(shards, tmp_path):
    import pickle

    import vit
    from vit.commands.gather import Gather
    from vit.errors import UserError
    from vit.images.preprocess import Preprocess
    from vit.runs.checkpoint import verify

    found = torch.load(shards / "3.pt")["fsdp"]
    last = shutil.copytree(shards / "3 fsdp" / "last", tmp_path / "checkpoints" / "last")
    verify(last)
    task = classifier()
    config = {
        "format": 1, "task": "classification", "model": task.model.config.to_dict(), "classes": list(task.classes),
        "preprocess": Preprocess((28, 28)).to_dict(),
    }  # fmt: skip
    (last / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"last is sharded\. Join it first: vitral gather .* OUT"):
        vit.load(tmp_path)
    Gather(str(tmp_path), str(tmp_path / "one")).run()
    weights = load_file(tmp_path / "one" / "model.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in found["average"].items())
    vit.load(tmp_path / "one")
    with pytest.raises(UserError, match="already exists"):
        Gather(str(tmp_path), str(tmp_path / "one")).run()
    (last / "SHA256SUMS").unlink()
    mark = tmp_path / "mark"
    (last / "sharded/.metadata").write_bytes(pickle.dumps(Malicious(str(mark))))
    with pytest.raises(UserError, match=r"is not the index of a sharded checkpoint: it loads .*open.* No code ran"):
        Gather(str(tmp_path), str(tmp_path / "two")).run()
    assert not mark.exists()


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """torchrun(how, *words): train.py in two processes that an agent of torchrun started; what became of it. With
    `command` torchrun is typed."""
    place = tmp_path_factory.mktemp("torchrun")
    data = write_digits(place / "digits", 12)
    options = [
        "--data", data, "--model", "vit_nano4", "--image-size", 8, "--epochs", 3, "--batch-size", 18, "--device", "cpu",
        "--drop-path", 0.2, "--mixup", 0.5, "--save-every", 3, "--workers", 1, "--optimizer", "adamw",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", AGENTS], env=environment, **pipes) as agents:

        def call(how, out, *more, restarts=0, command=False):
            words = ["folder", *map(str, [*options, "--out", out, *more])]
            if command:
                typed = [
                    "--standalone",
                    "--nproc-per-node",
                    "2",
                    str(ROOT / "tests/training/dying.py"),
                    how,
                    str(place),
                ]
                return subprocess.run(
                    [sys.executable, "-m", "torch.distributed.run", *typed, *words],
                    env=environment, capture_output=True, text=True, timeout=900,
                )  # fmt: skip
            agents.stdin.write(json.dumps([how, str(place), restarts, words]) + "\n")
            code = int(agents.stdout.readline())
            return SimpleNamespace(
                returncode=code,
                **{f"std{name}": (place / name).read_text(encoding="utf-8") for name in ("out", "err")},
            )

        call.place = place
        yield call
        agents.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_is_started_again_and_the_run_ends_as_the_whole_one(torchrun, tmp_path, parallel):
    """100 training images, 5 steps an epoch, 15 steps: killed in the 9th, resumed from the 6th."""
    weights = {}
    for how in ("never", "killed"):
        done = torchrun(how, tmp_path / how, "--parallel", parallel, restarts=1)
        assert done.returncode == 0, done.stdout + done.stderr
        weights[how] = load_file(tmp_path / how / "checkpoints/best/model.safetensors")
        rows = (tmp_path / how / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows if '"train"' in row] == [5, 10, 15]
        assert json.loads((tmp_path / how / "report.json").read_text())["n"] == 20
    assert all(torch.equal(weights["never"][k], v) for k, v in weights["killed"].items())


@pytest.mark.slow
def test_row_53_a_rank_that_raises_ends_all(torchrun, tmp_path):
    done = torchrun("raises", tmp_path / "run", command=True)
    seconds = time.time() - float((torchrun.place / "raised").read_text())
    assert done.returncode != 0 and "a bug in one of them" in done.stderr
    assert 0 < seconds < 60


@pytest.mark.slow
def test_sigterm_to_torchrun_saves(torchrun, tmp_path):
    done = torchrun("ended", tmp_path / "ended")
    assert done.returncode != 0
    state = torch.load(tmp_path / "ended/checkpoints/last/trainer.pt", weights_only=True)
    assert state["progress"]["step"] >= 9
    done = torchrun("never", tmp_path / "ended", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
