"""Runs that are killed again and again end as the run that never was: rows 34, 37 to 41, 43.

A run is a process of its own; it strikes itself at a chosen moment, since nobody outside can hit a step of some
milliseconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.small_data import write_digits, write_squares
from vit.runs.retention import candidates
from vit.training.log import read_rows

ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, signal, sys, threading, time
import tests.warm
import vit.data.load.loader, vit.data.load.workers, vit.runs.checkpoint, vit.training.engine
from vit.commands import train
from vit.commands.exit import run
from vit.tasks.detection.task import Detection
from vit.tasks.classification.task import Classification

def strike(where, moment, number):
    calls = 0

    def struck(inner, after):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            hit = calls == moment
            if hit and not after:
                os.kill(os.getpid(), number)
            result = inner(*args, **kwargs)
            if hit and after:
                os.kill(os.getpid(), number)
            return result
        return call

    def slow(*args, inner=vit.data.load.workers.run_reader):
        nonlocal calls
        for batch in inner(*args):
            calls += 1
            if calls == moment:
                threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
                time.sleep(60)
            yield batch

    if where in ("step", "after step"):
        vit.training.engine.train_step = struck(vit.training.engine.train_step, where != "step")
    elif where == "save":
        vit.runs.checkpoint.save_file = struck(vit.runs.checkpoint.save_file, True)
    elif where == "sums":
        vit.runs.checkpoint._sum = struck(vit.runs.checkpoint._sum, True)
    elif where == "rename":
        os.rename = struck(os.rename, moment % 2 == 0)
    elif where == "evaluation":
        for kind in (Classification, Detection):
            kind.predict = struck(kind.predict, True)
    elif where == "data":
        vit.data.load.loader.run_reader = slow

for line in sys.stdin:
    place, where, moment, number, words = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(place, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        strike(where, moment, number)
        run(lambda: train.main(words))
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """started(words, where, moment, signal): a run in a process of its own, forked from one that has everything
    imported, and struck at the `moment`-th call of what `where` names. What became of it."""
    place = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, **pipes) as server:

        def start(words, where="never", moment=0, number=0):
            server.stdin.write(json.dumps([str(place), where, moment, int(number), list(map(str, words))]) + "\n")
            code = int(server.stdout.readline())
            return Done(code, *((place / name).read_text(encoding="utf-8") for name in ("out", "err")))

        yield start
        server.stdin.close()


def outcome(run):
    """What a run leaves behind, but for times."""
    rows = [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_rows(run / "metrics.jsonl")]
    weights = {name: load_file(run / "checkpoints" / name / "model.safetensors") for name in ("best", "last")}
    return rows, weights, json.loads((run / "report.json").read_text())


def assert_same(run, whole):
    rows, weights, report = outcome(run)
    other_rows, other_weights, other_report = outcome(whole)
    assert rows == other_rows
    assert len({(row["phase"], row["step"]) for row in rows}) == len(rows)
    for name in weights:
        differ = [k for k in weights[name] if not torch.equal(weights[name][k], other_weights[name][k])]
        assert not differ, (name, differ)
    assert report == other_report
    names = {folder.name for folder in (run / "checkpoints").iterdir()}
    assert names == {folder.name for folder in (whole / "checkpoints").iterdir()}


def finished(started, options, out, strikes, workers):
    """Start the run, strike it, resume it with another number of workers, and so on to the end. The steps that it was
    resumed from."""
    begun, steps = False, []
    for i, (where, moment, number) in enumerate(strikes):
        resume = ["--resume"] if begun else []
        words = [*options, "--out", out, *resume, "--workers", workers[i % len(workers)]]
        done = started(words, where, moment, number)
        begun = (out / "config.yaml").exists()
        assert done.returncode != 0, f"the run ended before strike {i}"
        if number == signal.SIGKILL:
            assert done.returncode == -signal.SIGKILL, done.stderr
        else:
            assert done.returncode == 128 + number, (where, moment, done.stdout, done.stderr)
            assert "--resume continues from the last checkpoint" in done.stdout or "data" in done.stdout
            assert "Traceback" not in done.stderr  # of one that is killed, workers may say that it has gone
        newest = next(candidates(out / "checkpoints"), None)
        steps.append(0 if newest is None else json.loads((newest / "config.json").read_text())["step"])
    words = [*options, "--out", out, "--resume", "--workers", workers[-1]]
    done = started(words)
    assert done.returncode == 0, done.stderr
    return steps


def schedule(seed, kills):
    """Where, when and by which signal. Most runs get some steps further; all moments are counted from their start."""
    rng = random.Random(seed)
    places = ["step", "after step", "step", "after step", "save", "sums", "rename", "evaluation", "data"]
    strikes = []
    for i in range(kills):
        where = places[i % len(places)]
        moment = {"step": 12, "after step": 12, "save": 4, "sums": 5, "rename": 6, "evaluation": 2, "data": 9}[where]
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if where in ("save", "sums", "rename"):
            number = signal.SIGKILL
        strikes.append((where, rng.randint(1, moment), number))
    rng.shuffle(strikes)
    return strikes


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits", 30)


EVERYTHING = [
    "--model", "vit_nano4_conv", "--image-size", 8, "--epochs", 16, "--batch-size", 30, "--device", "cpu",
    "--mixup", 0.5, "--cutmix", 1.0, "--dropout", 0.1, "--attention-dropout", 0.1, "--drop-path", 0.2,
    "--accumulate", 2, "--ema", 0.9, "--augment", "light", "--eval-every", 3, "--save-every", 3, "--seed", 5,
]  # fmt: skip
"""Of 240 images: 8 steps an epoch, 128 steps, an evaluation every 24, a checkpoint every 3."""


@pytest.mark.slow
def test_twenty_kills_leave_the_run_that_was_never_killed(started, digits, tmp_path):
    options = ["folder", "--data", digits, *EVERYTHING]
    whole = tmp_path / "whole"
    done = started([*options, "--out", whole, "--workers", 0])
    assert done.returncode == 0, done.stderr
    strikes = schedule(0, 20)
    steps = finished(started, options, tmp_path / "broken", strikes, [0, 1, 4])
    assert len(steps) == 20 and len(set(steps)) > 10
    assert_same(tmp_path / "broken", whole)


@pytest.mark.slow
def test_five_kills_of_a_detector(started, tmp_path):
    """30 steps. Four images in one, mixup and pasted objects in the first 21: the strikes fall on both sides of it."""
    data = write_squares(tmp_path / "data", {"train": 24, "valid": 6, "test": 6})
    options = [
        "detect", "--data", data, "--device", "cpu", "--batch-size", 4, "--image-size", 32, "--queries", 12,
        "--epochs", 5, "--eval-every", 2, "--save-every", 2, "--multi-scale", 0.5, "--balanced", "--ema", 0.9,
        "--drop-path", 0.2, "--accumulate", 2, "--augment", "strong", "--close-mosaic", 0.3, "--no-previews",
    ]  # fmt: skip
    whole = tmp_path / "whole"
    done = started([*options, "--out", whole, "--workers", 1])
    assert done.returncode == 0, done.stderr
    strikes = [
        ("after step", 5, signal.SIGKILL),
        ("evaluation", 1, signal.SIGTERM),
        ("save", 2, signal.SIGKILL),
        ("data", 3, signal.SIGINT),
        ("step", 12, signal.SIGKILL),
    ]
    steps = finished(started, options, tmp_path / "broken", strikes, [0, 4, 1])
    assert len(steps) == 5 and 0 < steps[0] < 21 < steps[-1]
    assert_same(tmp_path / "broken", whole)
