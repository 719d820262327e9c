"""Damaged files never crash, never hang, never take memory without bound: a UserError comes out, or pixels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")


def fuzz(first: int, count: int, folder: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/images/fuzz_decode.py"), str(first), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    at = (folder / "at").read_text() if (folder / "at").exists() else "none"
    assert done.returncode == 0, f"file number {at}, exit code {done.returncode}:\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_two_hundred_damaged_files(tmp_path):
    told = fuzz(0, 200, tmp_path)
    assert told["read"] > 20 and told["refused"] > 60  # some damage is harmless, some is not


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    told = [fuzz(first, 1000, tmp_path) for first in range(200, 10_000, 1000)]
    assert sum(part["read"] + part["refused"] for part in told) == 10_000
    print(told)
