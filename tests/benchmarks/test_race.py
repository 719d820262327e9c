"""The race of detectors is fair: the same images in the same order for everyone, turns, and schedules of its length."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.detection import table
from benchmarks.race import Racer, Track, lay_track, ours, race


@pytest.fixture(scope="module")
def track() -> Track:
    return lay_track(64, 4, seed=0)


def test_everyone_sees_the_same_images(track: Track):
    """Whoever trains longer begins with the same."""
    assert track.steps == 64 // track.recipe.batch_size and len(track.train) == 64
    short, long = track.batches(2), track.batches(track.steps + 1)
    for _ in range(2):
        a, b = next(short), next(long)
        assert torch.equal(a.index, b.index) and torch.equal(a.images, b.images)
    assert sum(1 for _ in long) >= track.steps - 1


def test_turns(capsys: pytest.CaptureFixture[str]):
    """One of 5 steps and one of 12 in turns of 4, each in order."""
    taken: list[tuple[str, int]] = []

    def racer(name: str, steps: int) -> Racer:
        def step(i: int) -> torch.Tensor:
            taken.append((name, i))
            return torch.tensor(float(i))

        return Racer(name, nn.Identity(), steps, step, lambda: lambda metrics, batch: None)

    both = [racer("a", 5), racer("b", 12)]
    race(both, 4)
    capsys.readouterr()
    order = [name for name, _ in taken]
    assert order == ["a"] * 4 + ["b"] * 4 + ["a"] + ["b"] * 8
    assert all([i for n, i in taken if n == r.name] == list(range(r.steps)) for r in both)
    assert [r.losses for r in both] == [[float(i) for i in range(r.steps)] for r in both]


def test_ours_is_the_recipe(track: Track):
    """As many steps as `train.py scenes` would take, with its batch, rates and average."""
    racer = ours(track)
    assert racer.steps == track.recipe.epochs * (len(track.train) // track.recipe.batch_size)
    assert track.recipe.recipe == "scenes" and 0 < track.recipe.ema < 1
    racer.run(1)
    assert racer.done == 1 and racer.seconds > 0 and racer.losses[0] > 0


def test_the_table_compares_with_ours():
    run = {"parameters": 2_000_000, "images": 1600, "seconds": 10.0, "map": 0.5, "map50": 0.75}
    lines = table({"ours": run, "other": {**run, "seconds": 25.0, "map": 0.25}}).splitlines()
    assert lines[2] == "| ours | 2.0 M | 1,600 | 1.00 | 0.500 | 0.750 |"
    assert lines[3] == "| other | 2.0 M | 1,600 | 2.50 | 0.250 | 0.750 |"


@pytest.mark.slow
def test_both_races_from_the_command_line(tmp_path: Path):
    """In a process of its own: transformers is imported beside all of ours."""
    pytest.importorskip("transformers")
    options = [
        "--images",
        "32",
        "--time-images",
        "32",
        "--test",
        "4",
        "--turn",
        "1",
        "--json",
        str(tmp_path / "r.json"),
    ]
    code = f"import benchmarks.detection\nbenchmarks.detection.main({options})\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "r.json").read_text())
    names = {"ours", "lwdetr", "deimv2", "fasterrcnn"}
    assert set(result["equal images"]) == set(result["equal time"]) == names
    assert all(run["images"] == 32 and run["skipped"] == 0 for run in result["equal images"].values())
    slow = result["equal images"]["fasterrcnn"]
    assert slow["seconds"] > result["equal images"]["ours"]["seconds"]
    assert result["equal time"]["fasterrcnn"]["steps"] < slow["steps"]
    assert "equal time" in done.stdout
