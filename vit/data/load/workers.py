"""Worker processes that prefetch batches: how they start, the memory they need, and the error when one dies."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vit.errors import UserError

PREFETCH = 2
"""Batches that each worker prefetches; torch's default."""
SHARED = "/dev/shm"


def run_reader(reader: Dataset[Any], batches: Iterable[Any], workers: int, device: torch.device) -> Iterator[Any]:
    """The results of `reader` for each batch of draws, in order, from `workers` processes (0: this one).

    Raises UserError if a worker dies, naming its current image: `reader` calls `reading` before each image.
    """
    if workers == 0:
        return map(reader.__getitem__, batches)
    # The process id and current index of each worker, in shared memory for any start method.
    at = multiprocessing.RawArray("q", 2 * workers)
    loader = DataLoader(
        reader,
        # Each item of the "sampler" is a whole batch: one message per batch, one DataLoader per run.
        batch_size=None,
        sampler=batches,
        collate_fn=as_it_is,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        pin_memory=device.type == "cuda",
        worker_init_fn=partial(start_worker, at),
    )
    return _watched(loader, at, reader)


def as_it_is(batch: Any) -> Any:
    return batch


_here: tuple[Any, int] | None = None
"""In a worker: the array of all workers, and the number of this one."""


def start_worker(at: Any, worker: int) -> None:
    global _here
    # Ctrl-C reaches the whole process group. The parent finishes its step and saves, so workers continue until
    # it closes them (or they notice that it died).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # requests a checkpoint, which only the parent writes
    torch.set_num_threads(1)
    at[2 * worker], at[2 * worker + 1] = os.getpid(), -1
    _here = at, worker


def reading(index: int) -> None:
    """Record the image that this worker reads; does nothing outside workers."""
    if _here is not None:
        at, worker = _here
        at[2 * worker + 1] = index


_torchs: Any = None
"""torch's SIGCHLD handler."""


_processes: set[Any] = set()
"""Workers that may still run."""


@atexit.register
def _end_workers() -> None:
    """multiprocessing waits for the workers at exit, and they ignore SIGTERM: after an unhandled error it would wait
    forever."""
    for process in _processes:
        process.kill()


def _watched(loader: DataLoader[Any], at: Any, reader: Any) -> Iterator[Any]:
    """The batches. When a worker dies, torch raises from a signal handler, wherever the program is. Its handler is
    installed only while waiting for a batch, so that the error is raised where it can be reported."""
    global _torchs
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = (signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL) if main else None
    # Garbage collection writes to every object it visits, which copies the object's page in each worker; objects
    # frozen before the fork are not visited.
    gc.freeze()
    iterator = iter(loader)
    gc.unfreeze()
    processes = list(getattr(iterator, "_workers", ()))
    _processes.update(processes)
    if main and signal.getsignal(signal.SIGCHLD) != before:  # torch sets it only with the first loader of a process
        _torchs = signal.getsignal(signal.SIGCHLD)
    try:
        while True:
            if main:
                signal.signal(signal.SIGCHLD, _torchs or before)
            batch = next(iterator)
            if main:
                signal.signal(signal.SIGCHLD, before)
            yield batch
    except StopIteration:
        _processes.difference_update(processes)
    except GeneratorExit:
        _processes.difference_update(processes)
        raise
    except (RuntimeError, EOFError, OSError) as error:
        # EOFError and OSError: it died after it announced a batch and before the batch was fetched.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if main:
            signal.signal(signal.SIGCHLD, before)
        told = _death(processes, at, reader)
        if told is None:
            raise
        for process in processes:
            process.kill()
        raise UserError(told) from None
    finally:
        if main:
            signal.signal(signal.SIGCHLD, before)


def _death(processes: list[Any], at: Any, reader: Any) -> str | None:
    """A message about the worker that died; None if none did."""
    until = time.monotonic() + 2
    while all(process.exitcode is None for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    dead = [w for w, process in enumerate(processes) if process.exitcode not in (None, 0)]
    if not dead:
        return None
    worker, code = dead[0], processes[dead[0]].exitcode
    index = at[2 * worker + 1]
    told = f"Data worker {worker} died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
    if index < 0:
        return f"{told} before it read an image. Memory may have run out: try fewer --workers."
    place = f"{told} while it read image {index}, {reader.images.name(index)}."
    remedies = {
        -signal.SIGBUS: f"{SHARED} is full: make it larger (docker run --shm-size=2g), or try fewer --workers.",
        -signal.SIGKILL: "The system does this when memory runs out: try fewer --workers or a smaller --batch-size.",
    }
    return f"{place} {remedies.get(code, 'If it dies there again, remove the file, or try --workers 0.')}"


def require_room(workers: int, images: int, size: tuple[int, int]) -> None:
    """Raise UserError if the prefetched batches, of `images` images of (H, W) each, do not fit in shared memory."""
    if workers == 0 or not sys.platform.startswith("linux"):
        return
    need = (PREFETCH * workers + 1) * images * size[0] * size[1] * 3
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return
    free = status.f_bavail * status.f_frsize
    if free < need:
        raise UserError(
            f"{SHARED} has {free / 2**20:,.0f} MB left, and {workers} workers need {need / 2**20:,.0f} MB there for "
            "the batches they hand over: make it larger (docker run --shm-size=2g, or mount -o remount,size=2g "
            f"{SHARED}), or try fewer --workers (0 needs none) or a smaller --batch-size."
        )
