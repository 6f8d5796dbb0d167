import multiprocessing
import os
import signal
import time

import pytest

from mta_clip.engine import stopped
from mta_clip.engine.stopped import StoppedProcesses, stopped_children


@pytest.fixture
def child():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    yield process
    process.kill()
    process.join()


def eventually(true):
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_a_process_that_stays_stopped_is_killed(child, monkeypatch):
    monkeypatch.setattr(stopped, "_BEAT", 0.05)
    with StoppedProcesses(seconds=0.2) as watch:
        time.sleep(0.5)
        assert child.is_alive() and not watch.killed
        os.kill(child.pid, signal.SIGSTOP)
        assert eventually(lambda: not child.is_alive())
    assert watch.killed == {child.pid} and child.exitcode == -signal.SIGKILL


def test_a_process_that_goes_on_in_time_lives(child, monkeypatch):
    monkeypatch.setattr(stopped, "_BEAT", 0.05)
    with StoppedProcesses(seconds=1000) as watch:
        os.kill(child.pid, signal.SIGSTOP)
        assert eventually(lambda: stopped_children() == [child.pid])
        os.kill(child.pid, signal.SIGCONT)
        assert eventually(lambda: not stopped_children())
    assert child.is_alive() and not watch.killed
