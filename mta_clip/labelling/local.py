"""Engine: processes of this machine, each of which holds the model and asks for a block when it is done with one."""

import contextlib
import logging
import multiprocessing
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from ..data.parallel import end_with_parent

logger = logging.getLogger(__name__)

MOST_DEATHS = 20  # of processes in a block, after which the job stops

Result = TypeVar("Result")


class Named(Protocol):
    """Work with a name, such as a `Block`."""

    @property
    def name(self) -> str:
        """For messages."""


Work = TypeVar("Work", bound=Named)


def run_local(
    start: Callable[[int], Callable[[Work], Result]], items: Iterable[Work], *, workers: int
) -> Iterator[Result]:
    """Yields the results of all items, as they get done. Another process does what one was doing when it died.

    Args:
        start: called in each process with its number, from 0; makes the function that does the work. Picklable.
        items: taken one by one, when a process is free.

    Raises:
        RuntimeError: a process died before it was ready, or MOST_DEATHS of them at the same item.
        Exception: what `start` or the work raises, with the process's own traceback as its cause.
    """
    items, lost, deaths = iter(items), deque[Work](), Counter[str]()
    processes = {process.connection: process for process in (_Process(start, index) for index in range(workers))}
    try:
        while processes:
            ready: list[Any] = wait(list(processes))
            for connection in ready:
                process = processes.pop(connection)
                try:
                    error, result = connection.recv()
                except (EOFError, ConnectionResetError):
                    lost.append(process.lose(deaths))
                    process = _Process(start, process.index)
                    processes[process.connection] = process
                    continue
                if error is not None:
                    raise error from RuntimeError(result)
                was_ready, process.ready = process.ready, True
                if process.give(lost.popleft() if lost else next(items, None)):
                    processes[connection] = process
                if was_ready:
                    yield result
    finally:
        for process in processes.values():
            process.process.kill()


class _Process(Generic[Work, Result]):
    """A process, and the item that it has."""

    def __init__(self, start: Callable[[int], Callable[[Work], Result]], index: int) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(start, index, other), daemon=True)
        self.process.start()
        other.close()  # so that the end of the process closes the connection
        self.index = index
        self.ready = False
        self.item: Work | None = None

    def give(self, item: Work | None) -> bool:
        """Hands over an item, or ends the process if there is none; returns whether there was one."""
        self.item = item
        with contextlib.suppress(BrokenPipeError):  # it has died, as the next `recv` will find
            self.connection.send(item)
        return item is not None

    def lose(self, deaths: Counter[str]) -> Work:
        """What a process that died was doing."""
        self.process.join()
        if self.item is None:
            raise RuntimeError(
                f"process {self.index} died while it loaded the model (exit code {self.process.exitcode}; -9 is often "
                "too little memory: try fewer --workers)"
            )
        deaths[self.item.name] += 1
        logger.warning("process %d died (exit code %d); another one goes on", self.index, self.process.exitcode)
        if deaths[self.item.name] == MOST_DEATHS:
            raise RuntimeError(f"{MOST_DEATHS} processes died at {self.item.name}: see the images in its .started file")
        return self.item


def _serve(start: Callable[[int], Callable[[Work], Result]], index: int, connection: Connection) -> None:
    """What a process does: it sends (None, None) when it is ready, (None, result) per item, or (error, traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    try:
        work = start(index)
        connection.send((None, None))
        while (item := connection.recv()) is not None:
            connection.send((None, work(item)))
    except Exception as error:
        connection.send((error, traceback.format_exc()))
