"""Telling the restarts of torchrun apart.

torchrun's agent keeps one store of keys over all restarts, in which the processes of a group look for each other's
addresses under the same keys every time: the first process after a restart finds the address of a dead one (pytorch
issue 135712). TORCHELASTIC_RESTART_COUNT does not help, since each machine counts its own restarts (issue 108158). So
the processes first agree on a name for their round, and all keys begin with it.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from vit.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

PAUSE = 0.02
"""Seconds between two looks into the store: short against the start of a process, and signals arrive in between."""


def round_store(rank: int, size: int, timeout: timedelta) -> Store | None:
    """The store of this round, where torchrun's agent keeps one; None where torch makes a new one each time."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    # In the function: not every build of torch has them.
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, size, is_master=False, timeout=timeout)
    return PrefixStore(agreed_name(store, rank, size, timeout), store)


def agreed_name(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that all `size` processes of this round get and that no other round has, whatever earlier rounds left.

    Each process asks under an id of its own, which only a living first process can answer; the first process answers
    until all others have signed under the new name. Raises UserError when that takes longer than `timeout`.
    """
    deadline, own = time.monotonic() + timeout.total_seconds(), uuid.uuid4().hex

    def pause(missing: str) -> None:
        if time.monotonic() > deadline:
            raise UserError(f"{missing} of {size} did not join within {timeout.total_seconds():.0f} s.")
        time.sleep(PAUSE)

    if rank > 0:
        store.set(f"vit/asks/{rank}", own)
        while not store.check([f"vit/answers/{own}"]):
            pause("Process 0")
        name = store.get(f"vit/answers/{own}").decode()
        store.set(f"vit/{name}/{rank}", "")
        return name
    missing = list(range(1, size))
    while missing := [other for other in missing if not store.check([f"vit/{own}/{other}"])]:
        for other in missing:
            if store.check([f"vit/asks/{other}"]):  # of this round, or of an earlier one in which nobody waits
                store.set(f"vit/answers/{store.get(f'vit/asks/{other}').decode()}", own)
        pause("Processes " + ", ".join(map(str, missing)))
    return own
