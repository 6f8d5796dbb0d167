import asyncio
import json

import pytest

pytest.importorskip("prometheus_client", reason="serving needs pip install 'mta-clip[serve]'")
pytest.importorskip("starlette")

from prometheus_client import REGISTRY

from mta_clip.serving.gate import Gate


class App:
    """Answers 200 after a while, or fails."""

    def __init__(self, seconds=0.0, error=None):
        self.seconds = seconds
        self.error = error
        self.ended = 0

    async def __call__(self, scope, receive, send):
        await asyncio.sleep(self.seconds)
        self.ended += 1
        if self.error:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"labels"})


async def ask(gate, path="/segment"):
    """Status, headers and body of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    await gate({"type": "http", "path": path}, None, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


def counted(status):
    return REGISTRY.get_sample_value("mta_clip_requests_total", {"status": str(status)}) or 0


def gate_to(app, *, max_queued=2, timeout=5):
    return Gate(app, path="/segment", max_queued=max_queued, timeout=timeout)


def test_more_requests_than_there_is_room_for():
    before = counted(200), counted(503)
    gate = gate_to(App(0.05))

    async def many():
        first = await asyncio.gather(*(ask(gate) for _ in range(3)), ask(gate, "/health"))
        return first, await ask(gate)

    (*taken, refused, health), later = asyncio.run(many())
    assert [status for status, _, _ in taken] == [200, 200] and health[0] == later[0] == 200
    status, headers, body = refused
    assert status == 503 and headers[b"retry-after"] == b"1" and "under way" in json.loads(body)["detail"]
    assert (counted(200), counted(503)) == (before[0] + 3, before[1] + 1)  # /health is not counted


def test_an_answer_that_takes_too_long():
    app, before = App(0.2), counted(504)
    gate = gate_to(app, timeout=0.05)

    async def late():
        answer = await ask(gate)
        ended = app.ended
        await asyncio.sleep(0.3)
        return answer, ended

    (status, _, body), ended = asyncio.run(late())
    assert status == 504 and b"0.05 seconds" in body and counted(504) == before + 1
    assert (ended, app.ended) == (0, 1)  # it is not cut off, and not heard


def test_a_failure_is_counted_and_gives_its_place_back():
    before = counted(500)
    gate = gate_to(App(error=RuntimeError("broken")), max_queued=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            asyncio.run(ask(gate))
    assert counted(500) == before + 2
