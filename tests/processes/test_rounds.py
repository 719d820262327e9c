"""Processes that torchrun has started again find those of their own round only."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore, PrefixStore, TCPStore

from vit.errors import UserError
from vit.processes.restarts import agreed_name, round_store

SHORT, LONG = timedelta(seconds=0.2), timedelta(seconds=60)


def names_of(store, order, size, timeout=LONG, gap=0.05):
    """What the processes `order` of `size`, which come one after another, agree on; None for one that gave up."""

    def come(rank):
        try:
            return agreed_name(store, rank, size, timeout)
        except UserError:
            return None

    with ThreadPoolExecutor(len(order)) as pool:
        begun = []
        for rank in order:
            begun.append(pool.submit(come, rank))
            time.sleep(gap)
        return [one.result() for one in begun]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_each_round_has_one_name_and_no_two_have_the_same(order):
    store = HashStore()
    found = [names_of(store, ranks, 3) for ranks in ((0, 1, 2), order, order[::-1])]
    assert all(len(set(names)) == 1 for names in found)
    assert len({names[0] for names in found}) == 3


@pytest.mark.parametrize("came", [(0, 1), (1, 2), (2,), (0,)], ids=str)
def test_a_round_that_broke_off_leaves_nothing_that_misleads(came):
    store = HashStore()
    before = names_of(store, came, 3, SHORT, gap=0)
    assert before[came.index(0)] is None if 0 in came else set(before) == {None}
    for order in ((1, 2, 0), (0, 2, 1)):
        names = names_of(store, order, 3)
        assert len(set(names)) == 1 and names[0] not in (None, *before)


def test_who_does_not_come_is_named():
    with pytest.raises(UserError, match=r"Processes 1, 2 of 3 did not join within 0 s"):
        agreed_name(HashStore(), 0, 3, SHORT)
    with pytest.raises(UserError, match=r"Process 0 of 3 did not join"):
        agreed_name(HashStore(), 2, 3, SHORT)


def test_only_a_store_that_outlives_a_round_is_shared_out(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert round_store(0, 2, SHORT) is None
    server = TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    stores = {}

    def come(rank):
        stores[rank] = round_store(rank, 2, LONG)

    for value in ("first", "second"):
        threads = [threading.Thread(target=come, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert isinstance(stores[0], PrefixStore) and not stores[1].check(["0"])  # the address of the round before
        stores[0].set("0", value)
        assert stores[1].get("0") == value.encode()
    assert torch.distributed.is_available() and not server.check(["0"])
