import pytest

from mta_clip.app.jobs import Cancelled, Jobs
from mta_clip.modeling.inference.progress import Progress


def work(steps, after=lambda step: None):
    with Progress(steps, "row") as progress:
        for step in range(steps):
            progress.update()
            after(step)


def test_progress_is_told():
    told = []
    with Jobs().running("me", lambda *report: told.append(report)):
        work(3)
    assert told == [(1, 3, "row"), (2, 3, "row"), (3, 3, "row")]


def test_work_of_one_visitor_is_stopped():
    jobs, told = Jobs(), []
    with jobs.running("you", lambda *report: None):
        with (
            pytest.raises(Cancelled),
            jobs.running("me", lambda *report: told.append(report)),
        ):
            work(5, after=lambda step: step == 1 and jobs.cancel("me"))
        assert len(told) == 2
        assert jobs.cancel("you") and not jobs.cancel("me") and not jobs.cancel("nobody")


def test_an_older_job_does_not_take_the_stop_of_a_newer_one():
    jobs = Jobs()
    with jobs.running("me", print):
        with jobs.running("me", print):
            assert jobs.cancel("me")
        with jobs.running("me", lambda *report: None):
            work(2)  # the earlier stop is not its own
