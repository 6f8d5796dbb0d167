import sys

from mta_clip.modeling.inference import progress
from mta_clip.modeling.inference.progress import Progress, reporting_progress


def test_a_bar_appears_after_the_delay_and_shows_what_was_done_before(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress(10, "row") as bar:
        bar.update(4)
        assert bar.bar is None
        now = progress.DELAY
        bar.update(2)
        assert bar.bar.n == 6
        bar.update(4)
        assert bar.bar.n == 10
    assert "6/10" in capsys.readouterr().err


def test_in_the_main_process_only(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(progress.comm, "is_main_process", lambda: False)
    with Progress(2, "row") as bar:
        bar.update()
    assert bar.bar is None and capsys.readouterr().err == ""


def test_who_listens_is_told_instead_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "DELAY", 0)
    told = []
    with reporting_progress(lambda *report: told.append(report)), Progress(3, "row") as bar:
        bar.update()
        bar.update(2)
    assert told == [(1, 3, "row"), (3, 3, "row")] and capsys.readouterr().err == ""
    with Progress(1, "row") as bar:
        bar.update()
    assert len(told) == 2 and "1/1" in capsys.readouterr().err
