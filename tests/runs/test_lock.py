"""Row 58: one run a folder, and no lock outlives its owner."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vit.errors import UserError
from vit.runs.lock import lock_folder, parent_of

ROOT = Path(__file__).parents[2]
HOLDS = """
import sys, time
from pathlib import Path
from vit.errors import UserError
from vit.runs.lock import lock_folder
try:
    lock_folder(Path(sys.argv[1]))
except UserError as error:
    print(error)
    sys.exit(2)
if "fork" in sys.argv:
    import os
    if os.fork() == 0:
        time.sleep(60)
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder, *words):
    command = [sys.executable, "-c", HOLDS, str(folder), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_row_58_refused_while_the_other_lives_and_free_when_it_is_dead(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by process {first.pid} on .* since .*another --out"):
            lock_folder(folder)
        assert parent_of(folder) == os.getpid()
        with holder(folder) as second:
            assert second.wait() == 2 and f"in use by process {first.pid}" in second.stdout.read()
        first.send_signal(signal.SIGKILL)
    lock_folder(folder)
    lock_folder(folder)  # its own
    with holder(folder) as third:
        assert third.wait() == 2 and f"in use by process {os.getpid()}" in third.stdout.read()


def test_row_58_a_worker_that_outlives_its_parent_holds_no_lock(tmp_path):
    with holder(tmp_path, "fork") as first:
        assert first.stdout.readline() == "held\n"
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
        first.send_signal(signal.SIGKILL)
        first.wait()
        lock_folder(tmp_path)
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_a_folder_that_was_removed_is_locked_anew(tmp_path):
    lock_folder(tmp_path / "run")
    (tmp_path / "run/.lock").unlink()
    (tmp_path / "run").rmdir()
    lock_folder(tmp_path / "run")
    with holder(tmp_path / "run") as other:
        assert other.wait() == 2


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be written to \(.*\)\. Choose another --out"):
        lock_folder(tmp_path / "file" / "run")
