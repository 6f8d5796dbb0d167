"""Ctrl-C and SIGTERM: training stops after an iteration, so that a checkpoint can be saved."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Interrupts:
    """Notes signals instead of stopping at once.

    Args:
        once: a second signal means nothing. One process takes it as a wish to stop at once; several get each signal
            from the terminal and from their launcher.

    Example:
        with interrupts.noted():
            while not interrupts.received:
                step()
    """

    def __init__(self, *, once: bool = False) -> None:
        self.once = once
        self.received = 0  # number of the signal, 0: none
        self._deferred = True

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes signals of this process, in the main thread, within a block; elsewhere they do what they did."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._pid = os.getpid()
        before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        try:
            yield
        finally:
            if os.getpid() == self._pid:
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Signals, also those noted so far, raise `Interrupted` within a block of work that need not be finished."""
        self._deferred = False
        try:
            if self.received:
                raise Interrupted(self.received)
            yield
        finally:
            self._deferred = True

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a loader's worker, forked from this process: the main process stops it
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        again, self.received = self.received, signum
        if not self._deferred or (again and not self.once):
            raise Interrupted(signum)
        if not again:
            hint = "" if self.once else "; once more stops at once"
            logger.warning("%s: stopping after this iteration%s", signal.Signals(signum).name, hint)
