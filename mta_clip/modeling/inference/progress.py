"""Progress of the work on one image: a bar if it takes long, or whatever a program that shows it wants."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from detectron2.utils import comm
from tqdm import tqdm

DELAY = 3.0  # seconds of work on an image before a bar appears

Report = Callable[[int, int, str], None]  # units done, all units, name of a unit
_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextlib.contextmanager
def reporting_progress(report: Report) -> Iterator[None]:
    """Calls `report` instead of showing bars, in this thread; an exception that it raises ends the work."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class Progress:
    """Shows a bar in the main process once the work has taken DELAY seconds, and removes it at the end;
    only if stderr is a terminal.

    Args:
        total: number of units.
        unit: name of a unit, such as "row".
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.done = 0
        self.bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        self.start = time.monotonic()
        return self

    def update(self, units: int = 1) -> None:
        """Counts finished units."""
        self.done += units
        if (report := _report.get()) is not None:
            report(self.done, self.total, self.unit)
        elif self.bar is not None:
            self.bar.update(units)
        elif time.monotonic() - self.start >= DELAY and comm.is_main_process():
            self.bar = tqdm(total=self.total, initial=self.done, unit=self.unit, leave=False, disable=None)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
