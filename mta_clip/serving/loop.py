"""How the model's process takes jobs from the queue."""

import time
from queue import Empty, Queue
from typing import Any

import litserve
from litserve.loops.simple_loops import BatchedLoop

IDLE_SECONDS = 1.0  # in a call that waits for the first job


class WaitingLoop(BatchedLoop):
    """LitServe's loop, but it sleeps until a job comes; LitServe's own asks a thousand times a second.

    A batch waits for more jobs from its first one on, and takes what is there already in any case.
    """

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Queue, transport: Any
    ) -> tuple[list[tuple[int, str, Any]], list[tuple[int, str]]]:
        """Jobs with the queue for their answer and their id, and the same of those that have waited too long."""
        taken: list[tuple[int, str, Any]] = []
        late: list[tuple[int, str]] = []
        end = None
        while len(taken) < lit_api.max_batch_size:
            wait = IDLE_SECONDS if end is None else max(0, end - time.monotonic())
            try:
                answers, uid, arrived, job = request_queue.get(timeout=wait)
            except Empty:
                break
            now = time.monotonic()
            end = end or now + lit_api.batch_timeout
            if now - arrived > lit_api.request_timeout:
                late.append((answers, uid))
            else:
                taken.append((answers, uid, job))
        return taken, late
