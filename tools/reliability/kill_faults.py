"""What kill_anywhere.py does to jobs besides: a full disk, a read-only folder, failing renames, a wrong clock.

Full disks are small tmpfs, and read-only folders bind mounts: both need root. Nothing else is mounted or changed.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kill_jobs import Fault

SECONDS_BACK = 7 * 86400.0  # of the clock that goes wrong


@dataclass(frozen=True)
class Trouble:
    """A fault while it lasts.

    Args:
        statuses: with which a job may end.
        in_child: what makes the fault in the process of the job.
        lift: ends the fault; what was written stays.
    """

    statuses: tuple[int, ...] = (1,)
    in_child: Fault | None = None
    lift: Callable[[], None] = lambda: None


def _mount(*arguments: object) -> None:
    subprocess.run(["/bin/mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def _mounted(folder: Path, *arguments: object) -> Iterator[None]:
    _mount(*arguments, folder)
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", folder], check=True)


@contextmanager
def full_disk(share: float, folder: Path, needed: int) -> Iterator[Trouble]:
    """The output folder is a file system with a share of the bytes that the job needs beside those that are there."""
    there = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    kept = folder.parent.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    size = there + max(4096, int(share * max(0, needed - there)))
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        # Evaluations note what they could not write, and go on.
        yield Trouble((0, 1), lift=lambda: _mount("-o", "remount,size=1g", folder))


@contextmanager
def read_only(folder: Path, needed: int) -> Iterator[Trouble]:
    """The output folder cannot be written."""
    with _mounted(folder, "--bind", folder):
        _mount("-o", "remount,bind,ro", folder)
        yield Trouble(lift=lambda: _mount("-o", "remount,bind,rw", folder))


@contextmanager
def no_renames(folder: Path, needed: int) -> Iterator[Trouble]:
    """Every rename below the output folder fails, as on some network file systems."""

    def in_child() -> None:
        def hook(event: str, arguments: tuple) -> None:
            if event == "os.rename" and os.path.abspath(os.fsdecode(arguments[1])).startswith(str(folder)):
                raise OSError(5, "Input/output error", os.fsdecode(arguments[1]))

        sys.addaudithook(hook)

    yield Trouble(in_child=in_child)


@contextmanager
def clock_set_back(folder: Path, needed: int) -> Iterator[Trouble]:
    """After half a second, time.time() is a week earlier."""

    def in_child() -> None:
        real, start = time.time, time.time()
        time.time = lambda: real() - (SECONDS_BACK if real() - start > 0.5 else 0)

    yield Trouble((0,), in_child=in_child)


def _full(share: float) -> Callable:
    return lambda folder, needed: full_disk(share, folder, needed)


# name: a context of the output folder and the bytes that an uninterrupted job leaves there
FAULTS = {
    **{f"disk {share:.0%} of what is needed": _full(share) for share in (0.05, 0.4, 0.8)},
    "read-only folder": read_only,
    "renames fail": no_renames,
    "clock set back": clock_set_back,
}
