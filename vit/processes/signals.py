"""How a run reacts to signals: SIGTERM and SIGINT end it after the current step, SIGUSR1 only saves a checkpoint.

A run is consistent between two steps, and a wait for data there ends at once. Within a step the signal is remembered.
A second Ctrl-C ends the program immediately.
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
    """What signals request: `signal`, the number of the one that ends the run, or None; `save`, a checkpoint now."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.save = False
        self.alone = True
        """Whether this process may stop by itself, rather than together with the other processes of its run."""
        self._held = self._waiting = False
        self._pid = os.getpid()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within it, signals are remembered, except while `waiting`; outside, they end the program."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A section between steps that can be left at any moment. Raises Stopped."""
        if self.signal is not None and self.alone:
            raise Stopped(self.signal)
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raises Stopped if a signal has arrived."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def handle(self, number: int, _: Any = None) -> None:
        if os.getpid() != self._pid:  # in a forked process, which cannot save
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
    """Direct the signals of this program to a Stop, the same one for nested calls. Outside of the main thread no signal
    arrives."""
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
