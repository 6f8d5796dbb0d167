"""Ends processes of a job that somebody has stopped: the others would wait for them until collectives time out."""

import glob
import logging
import os
import signal
import threading
from types import TracebackType

logger = logging.getLogger(__name__)

_BEAT = 1.0  # seconds between two looks


class StoppedProcesses:
    """Kills child processes of this one that have been stopped (SIGSTOP) for some time.

    If this process is stopped as well, as by Ctrl-Z in a terminal, the time does not count. Debuggers are no trouble:
    a process that is traced is in another state. Needs /proc; elsewhere it does nothing.

    Args:
        seconds: for which a process may be stopped.

    Attributes:
        killed: ids of the processes that it has killed.

    Example:
        with StoppedProcesses(seconds=20) as stopped:
            wait_for_children()
    """

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds
        self.killed: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StoppedProcesses":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        beats: dict[int, int] = {}  # for which a process has been stopped
        while not self._over.wait(_BEAT):
            beats = {pid: beats.get(pid, 0) + 1 for pid in stopped_children()}
            for pid in [pid for pid, count in beats.items() if count * _BEAT >= self.seconds]:
                logger.error("Process %d has been stopped for %.0f s: killing it", pid, self.seconds)
                self.killed.add(pid)
                os.kill(pid, signal.SIGKILL)


def stopped_children() -> list[int]:
    """Ids of the child processes of this one that are stopped."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state == "T" and int(parent) == os.getpid():
            found.append(int(path.split("/")[2]))
    return found
