"""Run a function in several processes that know each other as torchrun's do, forked from one that has torch loaded."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = """
import importlib, json, os, sys
import tests.warm
module, name, place, port, sizes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5])
function = getattr(importlib.import_module(module), name)
for k, size in enumerate(sizes):
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port + k)}
            code = 1
            try:
                function(place)
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException:
                import traceback
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


def run_ranks(function, place, sizes, timeout=300):
    """`function(place)`, of a module of tests, in 1, 2 or more processes, one number of `sizes` after the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [function.__module__, function.__name__, str(place), str(port), json.dumps(sizes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FORKS, *words], capture_output=True, text=True, env=environment, timeout=timeout
    )
    codes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert codes == [[0] * size for size in sizes], done.stdout + done.stderr
