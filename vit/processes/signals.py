"""What a run does when it is told to stop: SIGTERM and SIGINT end it after the step, SIGUSR1 only saves.

Between steps all of a run is consistent, and whatever waits there for data is left at once. In a step the signal is
remembered. A second Ctrl-C does not wait for anything.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vit.errors import Stopped

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name))
SAVING = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))


class Stop:
    """What has been asked for: `signal`, the number of the one that ends the run, or None; `save`, a checkpoint now."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.save = False
        self.alone = True
        """Whether this process may leave by itself, rather than together with the others of its run."""
        self._held = self._waiting = False
        self._pid = os.getpid()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Signals are remembered, but for those that come while it is `waiting`; elsewhere they end the program."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A place, between steps, that can be left at any moment. Raises Stopped."""
        if self.signal is not None and self.alone:
            raise Stopped(self.signal)
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raises Stopped where a signal has come."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def handle(self, number: int, _: Any = None) -> None:
        if os.getpid() != self._pid:  # in a forked process, which is not the one that can save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number in SAVING:
            self.save = True
        elif self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.signal = number
            if not self._held or (self._waiting and self.alone):
                raise Stopped(number)


_active: Stop | None = None


@contextmanager
def listening() -> Iterator[Stop]:
    """The signals of this program go to the Stop that is given, the same one for calls within each other. Outside of
    the main thread none arrives."""
    global _active
    if _active is not None:
        yield _active
        return
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop.handle) for number in (*ENDING, *SAVING)}
    _active = stop
    try:
        yield stop
    finally:
        _active = None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
