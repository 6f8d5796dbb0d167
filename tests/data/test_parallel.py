import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts import ROOT

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


def end_of_a_worker(name):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error():
    with pytest.raises(ChildProcessError, match="killed, perhaps for want of memory"):
        list(map_files(end_of_a_worker, [1, 2, 3], workers=2, description=""))


def start_workers(folder):
    list(map_files(write_pid_and_wait, [folder / "a", folder / "b"], workers=2, description=""))


def write_pid_and_wait(path):
    path.write_text(str(os.getpid()))
    time.sleep(600)


def test_workers_end_with_a_main_process_that_is_killed(tmp_path):
    main = multiprocessing.get_context("fork").Process(target=start_workers, args=(tmp_path,))
    main.start()
    files = [tmp_path / "a", tmp_path / "b"]
    assert eventually(lambda: all(path.is_file() and path.read_text() for path in files))
    main.kill()
    main.join()
    assert eventually(lambda: not any(Path("/proc", path.read_text()).exists() for path in files))


def eventually(true):
    """Whether something becomes true within a minute."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def interrupt_all(number):
    if number == 0:
        os.killpg(os.getpgid(0), signal.SIGINT)
    return number


def interrupted_job(folder):
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        list(map_files(interrupt_all, range(4), workers=2, description=""))
    except KeyboardInterrupt:
        (folder / "interrupted").touch()


def test_ctrl_c_reaches_the_main_process_alone(tmp_path, capfd):
    main = multiprocessing.get_context("fork").Process(target=interrupted_job, args=(tmp_path,))
    main.start()
    main.join(60)
    assert (tmp_path / "interrupted").exists() and main.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_without_a_parent_of_its_kind_goes_on():
    code = "import time; from mta_clip.data.parallel import end_with_parent; end_with_parent(); time.sleep(0.5)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
