"""Row 37: what a signal does, wherever it comes (with whole runs in tests/training/test_kills.py)."""

import os
import signal
import threading

import pytest

from vit.commands.exit import run
from vit.errors import Stopped
from vit.processes.signals import Stop, listening


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_anything_can_be_saved_the_program_ends(number, capsys):
    with pytest.raises(SystemExit) as exit, listening():
        run(lambda: send(number))
    assert exit.value.code == 128 + number and capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_is_finished_and_waiting_is_not(number):
    done = []
    with listening() as stop:
        with pytest.raises(Stopped) as caught, stop.holding():
            send(number)
            done.append("the step")
            assert stop.signal == number
            with stop.waiting():
                done.append("the next")
        assert caught.value.signal == number
        stop.signal = None
        with pytest.raises(Stopped), stop.holding(), stop.waiting():
            send(number)
            done.append("what never comes")
    assert done == ["the step"]


def test_a_second_ctrl_c_stops_at_once():
    with listening() as stop, stop.holding():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught:
            send(signal.SIGINT)
    assert type(caught.value) is KeyboardInterrupt


def test_sigusr1_only_saves():
    with listening() as stop, stop.holding():
        send(signal.SIGUSR1)
        assert stop.save and stop.signal is None
        stop.check()


def test_the_handlers_of_before_are_back_and_calls_within_share_one():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with listening() as one:
        with listening() as other:
            assert other is one
        assert signal.getsignal(signal.SIGTERM) == one.handle
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]


def test_among_others_a_process_does_not_leave_by_itself():
    stop = Stop()
    stop.alone = False
    with stop.holding():
        with stop.waiting():
            stop.handle(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()


def test_outside_of_the_main_thread_nothing_is_touched():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def elsewhere():
        with listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
