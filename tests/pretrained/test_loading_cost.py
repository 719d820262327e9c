"""Loading costs little more than reading the file: no initial values are drawn, nothing is held twice."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

import pytest
import timm
from safetensors.torch import load_file, save_file

from vit.model.classifier import Classifier
from vit.model.unfilled import unfilled
from vit.pretrained.load import load


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "base.safetensors"
    save_file(dict(timm.create_model("vit_base_patch16_224").state_dict()), path)
    return path


def cost(make, read: bool = True) -> float:
    """Seconds of this process, whatever else runs on the machine, until every value has been read: a file mapped into
    memory is free until then, for safetensors as for us."""
    begun = time.process_time()
    made = make()
    if read:
        for tensor in made:
            tensor.detach().sum()
    return time.process_time() - begun


@pytest.mark.slow
def test_a_base_model_loads_within_1_3_times_what_load_file_and_empty_modules_take(file, one_thread):
    config = load("vit_b16", file).model.config
    rounds = []
    for _ in range(12):  # in turn, so that a busy moment meets all
        ours = cost(lambda: list(load("vit_b16", file).model.parameters()))
        # 150 modules cost milliseconds, too: as much as half of the reading where memory is fast.
        empty = cost(lambda: list(unfilled(lambda: Classifier(config)).parameters()), read=False)
        rounds.append((ours, empty, cost(lambda: load_file(file).values())))
    ours, empty, theirs = (median(times[2:]) for times in zip(*rounds, strict=True))
    told = f"{1e3 * ours:.1f} ms against {1e3 * theirs:.1f} for the file and {1e3 * empty:.1f} for the modules"
    assert ours <= 1.3 * (theirs + empty), told


MEASURE = """
import resource, sys
from pathlib import Path
import vit.pretrained.load
from vit.pretrained.load import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load("vit_b16", sys.argv[1]).model
total = sum(float(p.detach().sum()) for p in model.parameters())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_the_peak_is_the_model_and_its_largest_tensor(file):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, check=True)
    largest = 768 * 3072 * 4
    slack = 24 << 20  # the interpreter's own objects for 150 modules, and torch's lazily loaded code
    assert int(done.stdout) * 1024 <= file.stat().st_size + largest + slack
