"""How many requests are taken at once, how long one may take, and what is counted (ASGI middleware)."""

import asyncio
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from starlette.responses import JSONResponse

REQUESTS = Counter("mta_clip_requests", "Requests answered, by HTTP status.", ["status"])
SECONDS = Histogram(
    "mta_clip_request_seconds",
    "From the arrival of a request that is taken to the end of its answer.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
OPEN = Gauge("mta_clip_requests_open", "Requests that are read, wait or are being answered.")


class Gate:
    """Answers 503 at once when there is no room, and 504 when an answer takes too long.

    Args:
        app: that is served.
        path: of the endpoint; others pass.
        max_queued: requests taken at once, also those in the model.
        timeout: in seconds.
    """

    def __init__(self, app: Any, *, path: str, max_queued: int, timeout: float) -> None:
        self._app = app
        self._path = path
        self._max_queued = max_queued
        self._timeout = timeout
        self._open = 0

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        if self._open >= self._max_queued:
            await _refuse(503, f"{self._open} requests are under way; try again.", scope, receive, answer)
            REQUESTS.labels(503).inc()
            return
        self._open += 1
        try:
            with OPEN.track_inprogress(), SECONDS.time():
                await self._pass(scope, receive, answer)
        finally:
            self._open -= 1
            REQUESTS.labels(answer.status or 500).inc()  # what fails without an answer gets one from Starlette

    async def _pass(self, scope: dict, receive: Any, answer: "_Answer") -> None:
        work = asyncio.create_task(self._app(scope, receive, answer))
        done, _ = await asyncio.wait({work}, timeout=self._timeout)
        if done:
            work.result()  # raises what the work did
        elif answer.status == 0:  # the work goes on unheard: LitServe clears up only after the model has answered
            late, answer.send = answer.send, _nobody
            await _refuse(504, f"There was no answer in {self._timeout:g} seconds; try again.", scope, receive, late)
            answer.status = 504
        else:  # it is being sent, slowly
            await work


class _Answer:
    """Sends messages on; remembers the status."""

    def __init__(self, send: Any) -> None:
        self.send = send
        self.status = 0  # until the answer begins

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.start" and self.status == 0:
            self.status = message["status"]
        await self.send(message)


async def _nobody(message: dict) -> None:
    pass


async def _refuse(status: int, detail: str, scope: dict, receive: Any, send: Any) -> None:
    headers = {"Retry-After": "1"}
    await JSONResponse({"detail": detail}, status, headers)(scope, receive, send)
