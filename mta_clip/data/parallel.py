"""Processes many files in several processes, with one progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        try:
            yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, perhaps for want of memory: use fewer workers"
            ) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers, also on an interrupt
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # returns if it is killed; else the worker has ended before
    os._exit(1)
