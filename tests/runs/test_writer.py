"""Writing in the background: in order, nothing lost but what is out of date, errors not swallowed."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from vit.processes.world import ALONE
from vit.runs.background import BackgroundWriter, snapshot
from vit.training.saving import Saver


def test_jobs_run_in_order_and_what_waits_gives_way_to_its_next():
    done, gate, writer = [], threading.Event(), BackgroundWriter()
    writer.put("last", lambda: (gate.wait(10), done.append("last 1")))
    while not writer._busy:
        time.sleep(0.001)
    for name in ("last 2", "best 3", "last 3", "best 4", "last 4", "last 5"):
        writer.put(name.split()[0], lambda name=name: done.append(name))
    assert done == []  # none of these waited
    gate.set()
    writer.close()
    # "best" is on the disk before the "last" that tells of it.
    assert done == ["last 1", "best 4", "last 5"]


def test_what_a_job_raises_reaches_the_run():
    def fails():
        raise OSError("full")

    writer = BackgroundWriter()
    writer.put("last", fails)
    with pytest.raises(OSError, match="full"):
        writer.wait()
    done = []
    writer.put("last", lambda: done.append(1))
    writer.put("best", fails)
    with pytest.raises(OSError, match="full"):
        writer.close()
    assert done == [1]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_run_waits_for_its_checkpoints_unless_it_is_to_end_at_once(tmp_path, error):
    done, gate = [], threading.Event()
    threading.Timer(0.2, gate.set).start()
    try:
        save = Saver(tmp_path, SimpleNamespace(save_every=None, keep=1), None, {}, ALONE)
        with save.writing():
            save.writer.put("last", lambda: (gate.wait(10), done.append(1)))
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert done == ([] if error is KeyboardInterrupt else [1])
    gate.wait(10)


def test_a_snapshot_is_apart_from_the_state_and_shares_what_was_shared():
    weight = torch.arange(6.0).view(2, 3)
    state = {"a": weight, "b": [weight.detach(), {"c": weight.T}], "d": (1, "x", None)}
    copy = snapshot(state)
    weight.zero_()
    assert copy["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and copy["b"][0] is copy["a"] and copy["d"] == (1, "x", None)
    assert copy["b"][1]["c"].tolist() == [[0, 3], [1, 4], [2, 5]]
