"""Loading costs little more than reading the file: no initial values are drawn, nothing is held twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import timm
from safetensors.torch import load_file, save_file

from vit.pretrained.load import load


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "base.safetensors"
    save_file(dict(timm.create_model("vit_base_patch16_224").state_dict()), path)
    return path


def touched(tensors) -> float:
    """Every page read: a file mapped into memory is free until then."""
    return sum(float(tensor.sum()) for tensor in tensors)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the file cannot be put out of the page cache")
def test_a_base_model_loads_within_1_3_times_load_file(file):
    def cost(read) -> float:
        with file.open("rb") as stream:  # from the disk, not from memory: a mapped file costs nothing until it is read
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        touched(read())
        return time.perf_counter() - begun

    def ours():
        return load("vit_b16", file).model.state_dict().values()

    def theirs():
        return load_file(file).values()

    cost(ours), cost(theirs)
    assert min(cost(ours) for _ in range(5)) <= 1.3 * min(cost(theirs) for _ in range(5))


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
