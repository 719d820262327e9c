"""One run a folder: a lock that its owner cannot leave behind."""

from __future__ import annotations

import atexit
import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from vit.errors import UserError

NAME = ".lock"
_held: dict[Path, IO[str]] = {}
"""The system drops the lock with the first close of its file in this process: these stay open until it ends."""


@atexit.register
def _close() -> None:
    for file in _held.values():
        file.close()


def hold(folder: Path) -> None:
    """Make `folder` this process's own until it ends, however it ends: the system then drops the lock by itself.

    POSIX record locks: forked workers do not inherit them, and network file systems know them. Where a file system (or
    Windows) has none, nothing is locked. Raises UserError while another process holds the folder, and where it cannot
    be written to.
    """
    try:
        import fcntl
    except ImportError:
        return
    place = folder.resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = _held.get(place)
        if file is not None:
            if _same(file, place / NAME):
                return
            file.close()  # of a folder that was removed
        file = (place / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}). Choose another --out.") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            owner = _owner(file.read())
            file.close()
            raise UserError(
                f"{folder} is in use by {owner}. Wait for it or stop it, or choose another --out; a lock ends with the "
                "process that holds it."
            ) from None
        # This file system has no locks.
    _held[place] = file
    file.truncate(0)
    owner = {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname()}
    file.write(json.dumps({**owner, "since": time.strftime("%Y-%m-%d %H:%M")}))
    file.flush()


def parent_of(folder: Path) -> int | None:
    """The process that had started the last owner of a folder; None where that is not known, or was on another host."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return told["parent"] if told["host"] == socket.gethostname() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _owner(text: str) -> str:
    try:
        told: dict[str, Any] = json.loads(text)
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
