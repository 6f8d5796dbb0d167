import queue
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("litserve", reason="serving needs pip install 'mta-clip[serve]'")

from mta_clip.serving import loop
from mta_clip.serving.loop import WaitingLoop


def take(jobs, *, size=3, wait=0.0):
    api = SimpleNamespace(max_batch_size=size, batch_timeout=wait, request_timeout=10)
    return WaitingLoop().get_batch_requests(api, jobs, None)


def entry(number, age=0.0):
    return 0, f"uid{number}", time.monotonic() - age, number


def test_what_is_there_is_taken_without_waiting():
    jobs = queue.Queue()
    for number in range(5):
        jobs.put(entry(number))
    assert take(jobs) == ([(0, "uid0", 0), (0, "uid1", 1), (0, "uid2", 2)], [])
    assert take(jobs)[0] == [(0, "uid3", 3), (0, "uid4", 4)]


def test_a_batch_waits_for_more():
    jobs = queue.Queue()
    jobs.put(entry(0))
    threading.Timer(0.05, jobs.put, [entry(1)]).start()
    assert len(take(jobs, size=2, wait=10)[0]) == 2  # and no longer than it must
    jobs.put(entry(2))
    assert len(take(jobs, size=2, wait=0.01)[0]) == 1


def test_an_empty_queue(monkeypatch):
    monkeypatch.setattr(loop, "IDLE_SECONDS", 0.01)
    assert take(queue.Queue(), wait=0.01) == ([], [])


def test_jobs_that_nobody_waits_for_any_more():
    jobs = queue.Queue()
    jobs.put(entry(0, age=11))
    jobs.put(entry(1))
    assert take(jobs, size=2) == ([(0, "uid1", 1)], [(0, "uid0")])
