"""Work on images that reports how far it is and can be stopped, one piece per visitor."""

import contextlib
import threading
from collections.abc import Iterator

from ..modeling.inference.progress import Report, reporting_progress


class Cancelled(Exception):
    """The visitor stopped the work."""


class Jobs:
    """The work in progress, by session."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def running(self, session: str, report: Report) -> Iterator[None]:
        """Runs models in its block as the work of a session.

        Args:
            report: is told the progress on an image, after each part of it.

        Raises:
            Cancelled: the work was stopped; it is noticed after the part that was being done.
        """
        stop = self._stops[session] = threading.Event()

        def tell(done: int, total: int, unit: str) -> None:
            if stop.is_set():
                raise Cancelled
            report(done, total, unit)

        try:
            with reporting_progress(tell):
                yield
        finally:
            if self._stops.get(session) is stop:
                del self._stops[session]

    def cancel(self, session: str) -> bool:
        """Stops the work of a session; returns whether there was any."""
        stop = self._stops.get(session)
        if stop is not None:
            stop.set()
        return stop is not None
