import asyncio
import concurrent.futures
import io
import json
import os
import pickle
import signal
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pydantic
import pytest
import torch
from PIL import Image
from saved_models import mta_clip_config, segmenter
from scripts import load_script

pytest.importorskip("litserve", reason="serving needs pip install 'mta-clip[serve]'")

from fastapi import HTTPException, Request

import mta_clip
from mta_clip.api.load import model_config
from mta_clip.serving.requests import Job
from mta_clip.serving.server import Limits, Parameters, SegmentationAPI, build_server, read_request


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return str(segmenter(mta_clip_config()).save(tmp_path_factory.mktemp("models") / "saved"))


@pytest.fixture(scope="module")
def server(saved):
    return build_server(model_config(saved, device="cpu"), Limits(batch_size=4, max_pixels=2000, max_upload_mb=1))


def request_to(server, body, content_type):
    async def receive():
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "headers": headers, "app": server.app}, receive)


def form(field, content):
    return b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n--x--\r\n' % (field, content)


# The type that curl sends with --data-binary is wrong, and must not matter.
@pytest.mark.parametrize("content_type", ["image/png", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_an_image_as_body_or_form(server, png, picture, content_type):
    body = png
    if content_type.startswith("multipart"):
        body, content_type = form(b"image", png), f"{content_type}; boundary=x"
    job = asyncio.run(read_request(request_to(server, body, content_type), Parameters(names=("sky, road",))))
    assert np.array_equal(job.image, picture) and job.names == ("sky", "road")


def test_refusals_become_answers(server, png):
    for body, content_type, status in [
        (b"text", "image/png", 415),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400),
        (form(b"picture", png), "multipart/form-data; boundary=x", 422),
    ]:
        with pytest.raises(HTTPException) as refused:
            asyncio.run(read_request(request_to(server, body, content_type), Parameters()))
        assert refused.value.status_code == status


def test_unknown_parameters_are_refused():
    with pytest.raises(pydantic.ValidationError, match="labels"):
        Parameters(labels=("sky",))


def test_the_model_s_process(saved, picture, monkeypatch):
    monkeypatch.setattr("mta_clip.serving.server.end_with_parent", lambda: None)
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    before = signal.getsignal(signal.SIGINT)
    api = SegmentationAPI(model_config(saved, device="cpu"), Limits(), replicas=3)
    try:
        api.setup("cpu")
    finally:
        signal.signal(signal.SIGINT, before)
    assert threads == [2]  # three replicas share seven cores
    answer, refusal = pickle.loads(pickle.dumps(api.predict([Job(picture), Job(picture, names=("a", "a"))])))
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(answer({"type": "http"}, None, send))
    labels = np.array(Image.open(io.BytesIO(sent[1]["body"])))
    assert np.array_equal(labels, mta_clip.load(saved, device="cpu")(picture).labels)
    assert refusal.status_code == 400 and "more than once" in json.loads(refusal.body)["detail"]


def test_the_description(server):
    paths = server.app.openapi()["paths"]
    endpoint = paths["/segment"]["post"]
    assert {entry["name"] for entry in endpoint["parameters"]} == {"names", "other", "threshold", "output"}
    assert set(endpoint["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert set(endpoint["responses"]) >= {"200", "400", "413", "415", "422", "503", "504"} and "/metrics" in paths


def test_replicas(saved, monkeypatch):
    cfg = model_config(saved, device="cpu")
    assert build_server(cfg, Limits(), replicas=3).workers_per_device == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg.MODEL.DEVICE = "cuda"
    on_gpus = build_server(cfg, Limits())
    assert on_gpus.devices == [["cuda:0"], ["cuda:1"]] and on_gpus.workers_per_device == 1
    with pytest.raises(ValueError, match="3 GPUs"):
        build_server(cfg, Limits(), replicas=3)


def test_no_process_is_replaced_while_the_server_stops(saved, monkeypatch):
    seen = []
    stop = lambda self, *_: seen.append(self._shutdown_event.is_set())  # noqa: E731
    monkeypatch.setattr("litserve.LitServer._perform_graceful_shutdown", stop)
    server = build_server(model_config(saved, device="cpu"), Limits())
    server._shutdown_event = threading.Event()
    server._perform_graceful_shutdown(None, {}, "keyboard_interrupt")
    assert seen == [True]


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/serve_benchmark.py")


def ask(port, body, query=""):
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/segment?{query}", body, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read()


def white(side):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "white").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_a_server(saved, tool, png, picture):
    """Good and bad requests, two lists of names at once, too much at once, and a stop with requests under way."""
    model = mta_clip.load(saved, device="cpu")
    names = {"": None, "names=sky,cat&other=rest": ["sky", "cat"]}
    right = {query: model(picture, wanted, other=wanted and "rest").labels for query, wanted in names.items()}
    large = white(3000)  # takes a while
    options = ["--max-queued", "6", "--max-upload-mb", "1", "MODEL.DEVICE", "cpu"]
    with concurrent.futures.ThreadPoolExecutor(24) as pool, tool.served(saved, *options) as (port, server):
        for _ in range(3):
            answers = {query: [pool.submit(ask, port, png, query) for _ in range(3)] for query in names}
            for query, futures in answers.items():
                for future in futures:
                    status, body = future.result()
                    assert status == 200 and np.array_equal(Image.open(io.BytesIO(body)), right[query])
        assert ask(port, b"text")[0] == 415 and ask(port, png[:80])[0] == 400 and ask(port, bytes(2_000_000))[0] == 413
        assert ask(port, png, "names=a,a")[0] == 400 and ask(port, png, "output=gif")[0] == 422
        assert ask(port, png, "labels=sky")[0] == 422
        assert json.loads(ask(port, png, "output=json")[1])["images"][0]["height"] == 30
        statuses = [future.result()[0] for future in [pool.submit(ask, port, png) for _ in range(24)]]
        assert {*statuses} == {200, 503}
        assert b'mta_clip_requests_total{status="415"} 1.0' in metrics(port)
        last = [pool.submit(ask, port, large) for _ in range(2)]
        while b"mta_clip_requests_open 2.0" not in metrics(port):
            time.sleep(0.01)
        os.killpg(server.pid, signal.SIGINT)  # as Ctrl-C in a terminal: to all of its processes
        assert [future.result()[0] for future in last] == [200, 200]
        assert server.wait(60) == 0
    with pytest.raises(OSError):
        ask(port, png)


@pytest.mark.slow
def test_a_model_s_process_that_dies_is_replaced(saved, tool, png):
    with tool.served(saved, "--timeout", "20", "MODEL.DEVICE", "cpu") as (port, server):
        assert ask(port, png)[0] == 200
        worker = max(tool.family(server.pid)[1:], key=tool.cpu_seconds)  # it has loaded the model
        os.kill(worker, signal.SIGKILL)
        assert ask(port, png)[0] in (200, 504)
        statuses = [ask(port, png)[0] for _ in range(6)]
        assert statuses[-1] == 200
