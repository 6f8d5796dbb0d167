"""Processes many files in several processes, with one progress bar."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
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
    """
    items = list(items)
    bar = {"total": len(items), "desc": description, "unit": "file", "dynamic_ncols": True, "disable": None}
    if workers <= 0 or len(items) < 2:
        yield from tqdm(map(function, items), **bar)
        return
    chunk = max(1, min(32, len(items) // (4 * workers)))
    with multiprocessing.Pool(workers) as pool:  # leaving the block ends the processes, also on an interrupt
        yield from tqdm(pool.imap(function, items, chunksize=chunk), **bar)
