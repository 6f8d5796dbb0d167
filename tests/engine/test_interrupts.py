import os
import signal
import threading

import pytest

from mta_clip.engine.interrupts import SIGNALS, Interrupted, Interrupts


def send(signum) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_stops_at_once(signum):
    before = signal.getsignal(signum)
    interrupts = Interrupts()
    with interrupts.noted():
        send(signum)
        assert interrupts.received == signum
        with pytest.raises(Interrupted, match=f"stopped by {signum.name}") as stop:
            send(signum)
    assert stop.value.signum == signum
    assert signal.getsignal(signum) == before


def test_several_processes_get_each_signal_twice():
    interrupts = Interrupts(once=True)
    with interrupts.noted():
        send(signal.SIGINT)
        send(signal.SIGINT)
    assert interrupts.received == signal.SIGINT


def test_work_that_need_not_be_finished_stops_at_once():
    interrupts = Interrupts()
    with interrupts.noted():
        with pytest.raises(Interrupted), interrupts.at_once():
            send(signal.SIGTERM)
        with pytest.raises(Interrupted), interrupts.at_once():  # it was noted
            raise AssertionError("never reached")


def test_processes_forked_in_the_block_keep_no_handler():
    """Loader workers: the terminal interrupts them too, and their main process ends them by SIGTERM."""
    reader, writer = os.pipe()
    with Interrupts().noted():
        child = os.fork()
        if child == 0:
            send(signal.SIGINT)  # means nothing
            os.write(writer, b"x")
            signal.pause()
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_other_threads_leave_signals_alone():
    handlers = []

    def work() -> None:
        with Interrupts().noted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
