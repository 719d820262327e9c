"""Peers run in a process of their own, outside of the repository, where `datasets` is not ours."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def peer(tmp_path: Path) -> Callable[..., None]:
    """`peer("losses_peer.py", *arguments, needs="transformers")` runs a script of this folder, or skips the test."""

    def run(script: str, *arguments: object, needs: str) -> None:
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
