import math
import sys
import time

import pytest

from mta_clip.data.parallel import map_files


def first_is_late(number: int) -> int:
    time.sleep(0.2 * (number == 0))
    return 10 * number


@pytest.mark.parametrize("workers", [0, 2])
def test_map_files_keeps_order(workers):
    assert list(map_files(first_is_late, range(4), workers=workers, description="")) == [0, 10, 20, 30]


@pytest.mark.parametrize("workers", [0, 2])
def test_map_files_passes_errors_on(workers):
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(map_files(math.sqrt, [4, -1, 16], workers=workers, description=""))


def test_progress_names_the_work_and_counts_files(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(map_files(abs, range(-2, 1), workers=0, description="Counting")) == [2, 1, 0]
    shown = capsys.readouterr().err
    assert "Counting" in shown and "3/3" in shown


def test_no_progress_in_log_files(capsys):
    assert list(map_files(abs, range(-2, 1), workers=0, description="Counting")) == [2, 1, 0]
    assert capsys.readouterr().err == ""


def test_no_files():
    assert list(map_files(abs, [], workers=2, description="Nothing")) == []
