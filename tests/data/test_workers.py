"""FAULTS rows 48 and 49: a worker that dies is told with its file; too little shared memory is told at start."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vit.data import AUGMENTS, LabelReader, LoaderOptions, Pipeline, eval_loader, train_loader
from vit.data.load.box_reader import BoxReader
from vit.data.load.workers import require_room
from vit.data.open import open_data
from vit.data.sets.imageset import ArraySet
from vit.errors import UserError
from vit.images.preprocess import Preprocess

SIZE = Preprocess((28, 28))


class Deadly(ArraySet):
    """Image 13 ends the process that reads it."""

    how: object = signal.SIGKILL

    def image(self, i):
        if i == 13:
            time.sleep(0.2)
            if isinstance(self.how, signal.Signals):
                os.kill(os.getpid(), self.how)
            os._exit(3)
        return super().image(i)


def deadly(how=signal.SIGKILL):
    images = Deadly(["a"], np.zeros(40, np.int64), np.zeros((40, 28, 28), np.uint8), "photos")
    images.how = how
    images.cache = lambda limit=0: False  # the parent would read them all
    return images


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (signal.SIGKILL, r"\(SIGKILL\) .*memory runs out: try fewer --workers"),
        (signal.SIGSEGV, r"\(SIGSEGV\) .*remove the file, or try --workers 0"),
        (signal.SIGBUS, r"\(SIGBUS\) .*/dev/shm is full: make it larger"),
        ("exit", r"\(exit code 3\)"),
    ],
)
def test_row_48_a_worker_that_dies_is_told_with_its_file(how, told):
    loader = eval_loader(LabelReader(deadly(how), SIZE), LoaderOptions(batch_size=4, workers=2))
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(UserError, match=r"Data worker 1 died .*it read image 13, photos/13\.") as error:
        list(loader)
    assert re.search(told, str(error.value))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_row_48_it_is_told_by_the_loader_wherever_the_program_is():
    """torch raises from a signal handler, in the middle of whatever the program does: here only from the loader."""
    loader = iter(eval_loader(LabelReader(deadly(), SIZE), LoaderOptions(batch_size=4, workers=2)))
    next(loader)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:  # a step of training, while the worker dies
        sum(range(1000))
    with pytest.raises(UserError, match="photos/13"):
        list(loader)


def test_row_48_the_exit_code(tmp_path):
    code = (
        "from vit.commands.exit import run\n"
        "from tests.data.test_workers import SIZE, deadly\n"
        "from vit.data import LabelReader, LoaderOptions, eval_loader\n"
        "loader = eval_loader(LabelReader(deadly(), SIZE), LoaderOptions(batch_size=4, workers=2))\n"
        "run(lambda: list(loader) and None)\n"
    )
    root = Path(__file__).parents[2]
    # On a single core torch warns of two workers.
    command = [sys.executable, "-W", "ignore:This DataLoader will create", "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Data worker 1 died (SIGKILL) while it read image 13, photos/13.")


def test_an_error_in_a_worker_is_no_death():
    class Broken(ArraySet):
        def image(self, i):
            raise RuntimeError("a bug")

    images = Broken(["a"], np.zeros(8, np.int64), np.zeros((8, 28, 28), np.uint8), "photos")
    images.cache = lambda limit=0: False
    with pytest.raises(RuntimeError, match="a bug"):
        list(eval_loader(LabelReader(images, SIZE), LoaderOptions(batch_size=4, workers=1)))


def shared_memory(monkeypatch, free):
    class Status:
        f_bavail, f_frsize = free // 4096, 4096

    monkeypatch.setattr("vit.data.load.workers.os.statvfs", lambda path: Status)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /dev/shm")
def test_row_49_too_little_shared_memory_is_found_at_start(monkeypatch, shapes):
    shared_memory(monkeypatch, 64 * 2**20)  # docker's default
    images = ArraySet(["a"], np.zeros(64, np.int64), np.zeros((64, 28, 28), np.uint8), "x")
    large = Preprocess((224, 224))
    pipeline = Pipeline(AUGMENTS["none"], large)
    with pytest.raises(UserError, match=r"/dev/shm has 64 MB left, and 4 workers need 83 MB .*--shm-size=2g"):
        train_loader(LabelReader(images, large, pipeline), LoaderOptions(batch_size=64, epochs=1, workers=4))
    with pytest.raises(UserError, match="/dev/shm"):
        eval_loader(LabelReader(images, large), LoaderOptions(batch_size=64, workers=4))
    with pytest.raises(UserError, match="/dev/shm"):
        size = Preprocess((4096, 4096), resize="letterbox")
        eval_loader(BoxReader(open_data(str(shapes), kind="boxes").val, size), LoaderOptions(batch_size=8, workers=1))
    # Enough, or none needed
    train_loader(LabelReader(images, large, pipeline), LoaderOptions(batch_size=32, epochs=1, workers=4))
    train_loader(LabelReader(images, large, pipeline), LoaderOptions(batch_size=64, epochs=1))
    shared_memory(monkeypatch, 2**31)
    train_loader(LabelReader(images, large, pipeline), LoaderOptions(batch_size=64, epochs=1, workers=4))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /dev/shm")
def test_row_49_what_is_required_is_what_batches_take(monkeypatch):
    """Two batches a worker, and the one in use."""
    need = (2 * 3 + 1) * 10 * 20 * 30 * 3
    shared_memory(monkeypatch, (need + 4095) // 4096 * 4096)
    require_room(3, 10, (20, 30))
    shared_memory(monkeypatch, need - 4096)
    with pytest.raises(UserError):
        require_room(3, 10, (20, 30))
