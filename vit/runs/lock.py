"""A lock on a run folder, which ends with the process that holds it."""

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
"""Open lock files. The system drops a lock when its file is first closed in this process, so they stay open."""


@atexit.register
def _close() -> None:
    for file in _held.values():
        file.close()


def lock_folder(folder: Path) -> None:
    """Lock `folder` for this process until it ends, however it ends: the system then drops the lock.

    These are POSIX record locks: forked workers do not inherit them, and network file systems support them. Where a
    file system (or Windows) has none, nothing is locked. Raises UserError while another process holds the folder, and
    if it cannot be written to.
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
                f"{folder} is in use by {owner}. Wait for it, stop it, or choose another --out. The lock ends with "
                "that process."
            ) from None
        # The file system has no locks.
    _held[place] = file
    file.truncate(0)
    owner = {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname()}
    file.write(json.dumps({**owner, "since": time.strftime("%Y-%m-%d %H:%M")}))
    file.flush()


def parent_of(folder: Path) -> int | None:
    """The parent process of the last owner of a folder; None if it is unknown or was on another host."""
    try:
        owner = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return owner["parent"] if owner["host"] == socket.gethostname() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _owner(text: str) -> str:
    try:
        owner: dict[str, Any] = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
