"""Writing checkpoints in the background: training waits for the copy to host memory, not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor


class BackgroundWriter:
    """Runs jobs in a thread, one by one and in order.

    A job that is still waiting is replaced by a new job of the same name, so that a slow disk does not fill the memory.
    An exception in a job is raised by the next call of `put`, `wait` or `close`.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Callable[[], None]] = {}
        self._change = threading.Condition()
        self._busy = self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, name: str, job: Callable[[], None]) -> None:
        self._raise()
        with self._change:
            # At the end of the queue: "last" refers to a "best", which must be on the disk before it.
            self._jobs.pop(name, None)
            self._jobs[name] = job
            self._change.notify_all()
        if self._thread is None:
            # A daemon: a second Ctrl-C need not wait, and leaves only a temporary folder.
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until everything is written."""
        with self._change:
            while self._jobs or self._busy:
                self._change.wait(0.2)
        self._raise()

    def close(self) -> None:
        """Finish all jobs; raises what a job raised."""
        self.finish()
        self._raise()

    def finish(self) -> None:
        """Finish all jobs, without raising what they raised."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._jobs and not self._closed:
                    self._change.wait()
                if not self._jobs:
                    return
                name = next(iter(self._jobs))
                job, self._busy = self._jobs.pop(name), True
            try:
                job()
            except BaseException as error:  # for the thread that waits
                self._error = self._error or error
            finally:
                del job  # it holds a copy of the state
                with self._change:
                    self._busy = False
                    self._change.notify_all()


def snapshot(value: Any, copies: dict[Any, Tensor] | None = None) -> Any:
    """A copy, on the CPU, of plain containers of tensors. A tensor that occurs twice is copied once."""
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if key not in copies:
            copies[key] = value.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(value, dict):
        return {key: snapshot(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item, copies) for item in value)
    return value
