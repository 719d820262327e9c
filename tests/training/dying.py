"""Processes of train.py that torchrun has started, one of which dies in its 9th step: `how` is killed, raises, ended
(by a SIGTERM to torchrun) or never."""

import os
import signal
import sys
import time
from pathlib import Path


def work(how: str, place: str, words: list[str]) -> None:
    """place: a folder in which "raised" gets the time at which one raised."""
    import vit.training.engine
    from vit.commands import train
    from vit.commands.exit import run

    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    inner, calls = vit.training.engine.train_step, 0

    def step(*args):
        nonlocal calls
        calls += 1
        if attempt == 0 and calls == 9:
            if how == "killed" and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raises" and rank == 1:
                Path(place, "raised").write_text(str(time.time()))
                raise RuntimeError("a bug in one of them")
            if how == "ended" and rank == 0:
                os.kill(os.getppid(), signal.SIGTERM)
        return inner(*args)

    vit.training.engine.train_step = step
    run(lambda: train.main(words))


AGENTS = """
import json, os, sys, uuid
import tests.warm
from tests.training.dying import work
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def rank(*args):
    try:
        work(*args)
    except SystemExit as end:
        if end.code:  # the agent takes whoever returns for one that has done its work
            raise

for line in sys.stdin:
    how, place, restarts, words = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(place, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        config = LaunchConfig(
            1, 1, 2, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=restarts,
            start_method="fork",
        )
        elastic_launch(config, rank)(how, place, words)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""What torchrun --standalone does, agent, rendezvous and restarts, but its processes are forked from one that has
everything imported: a start takes no seconds."""

if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3:])
