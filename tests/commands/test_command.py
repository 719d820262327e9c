"""How a command ends: one message and an exit code for what the user can mend, a traceback for what we must."""

import errno
import os

import pytest

from vit.commands.exit import run
from vit.errors import UserError


def ended(main):
    with pytest.raises(SystemExit) as stopped:
        run(main)
    return stopped.value.code


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_what_is_returned_is_the_exit_code(returned, code):
    assert ended(lambda: returned) == code


def test_a_mistake_is_one_message(capsys):
    assert ended(raising(UserError("no such thing. Look there."))) == 2
    assert capsys.readouterr() == ("", "Error: no such thing. Look there.\n")


def test_ctrl_c(capsys):
    assert ended(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_no_bug(number, capsys):
    assert ended(raising(OSError(number, os.strerror(number), "/runs/digits/metrics.jsonl"))) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"Error: /runs/digits/metrics.jsonl: {os.strerror(number)}. Free space, or ")


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), OSError(errno.EBADF, "x"), FileNotFoundError(2, "x")]
)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(raising(error))
