"""The restarts of torchrun, told apart.

torchrun's agent keeps one store of keys over all restarts, in which the processes of a group look for each other's
addresses under the same keys every time: whoever comes first after a restart finds the address of a process that is
dead (pytorch issue 135712). The number in TORCHELASTIC_RESTART_COUNT is no remedy, since each machine counts its own
(issue 108158). So the processes agree on a name of their round first, and all keys begin with it.
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
"""Seconds between two looks into the store: short against the start of a process, and signals are heard in between."""


def round_store(rank: int, size: int, timeout: timedelta) -> Store | None:
    """The store of this round where torchrun's agent has one; None where torch makes one that is new each time."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    # In the function: not every build of torch has them.
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, size, is_master=False, timeout=timeout)
    return PrefixStore(agreed_name(store, rank, size, timeout), store)


def agreed_name(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name that all `size` processes of this round get and that no other round has, whatever earlier ones left.

    Each asks under a number of its own, which only a living first process can answer; that one answers until all of
    them have signed under the new name. Raises UserError where that takes longer than `timeout`.
    """
    deadline, own = time.monotonic() + timeout.total_seconds(), uuid.uuid4().hex

    def pause(missing: str) -> None:
        if time.monotonic() > deadline:
            raise UserError(f"{missing} of {size} did not come within {timeout.total_seconds():.0f} s.")
        time.sleep(PAUSE)

    if rank > 0:
        store.set(f"vit/asks/{rank}", own)
        while not store.check([f"vit/answers/{own}"]):
            pause("process 0")
        name = store.get(f"vit/answers/{own}").decode()
        store.set(f"vit/{name}/{rank}", "")
        return name
    missing = list(range(1, size))
    while missing := [other for other in missing if not store.check([f"vit/{own}/{other}"])]:
        for other in missing:
            if store.check([f"vit/asks/{other}"]):  # of this round, or of one before it that nobody waits in
                store.set(f"vit/answers/{store.get(f'vit/asks/{other}').decode()}", own)
        pause("processes " + ", ".join(map(str, missing)))
    return own
