"""Processes many files in several processes, with one progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_files(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """Yields `function(item)` for every item, in order, with a progress bar if stderr is a terminal.

    Args:
        function: picklable if there are workers; whatever it raises stops the other processes, and is raised here.
        workers: processes besides this one; 0: this one does everything.
        description: label of the progress bar.

    Raises:
        ChildProcessError: a worker was killed.
    """
    items = list(items)
    bar = {"total": len(items), "desc": description, "unit": "file", "dynamic_ncols": True, "disable": None}
    if workers <= 0 or len(items) < 2:
        yield from tqdm(map(function, items), **bar)
        return
    chunk = max(1, min(32, len(items) // (4 * workers)))
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        try:
            with _no_interrupts():
                results = pool.map(function, items, chunksize=chunk)  # starts the workers
            yield from tqdm(results, **bar)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, perhaps for want of memory: use fewer workers"
            ) from error


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C for later: Python loses one that comes within a fork. Workers started here never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a process that multiprocessing started: ends it if its parent is killed. In any other: nothing."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()  # returns if it is killed; else this process has ended before
        os._exit(1)
