#!/usr/bin/env python
"""Measures `mta-clip serve` with a client of its own: throughput against the bare model, and 1,000 requests, some bad.

    python tools/serve_benchmark.py throughput --model output/demo --input datasets/shapes/val/images
    python tools/serve_benchmark.py throughput --model output/demo --input datasets/shapes/val/images --size 512 384
    python tools/serve_benchmark.py load --model output/demo --input datasets/shapes/val/images

Server and bare model take the same images in turns, in one run. CPU seconds hold on a machine that others use too;
images per second need a quiet one. Linux only.
"""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import argparse
import contextlib
import http.client
import io
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mta_clip.api.load import load
from mta_clip.data.image_files import decode_image, images_at
from mta_clip.serving.requests import MOST_NAMES

COMMAND = "import sys; from mta_clip.cli.main import main; sys.exit(main(sys.argv[1:]))"
TICK = os.sysconf("SC_CLK_TCK")


class Request(NamedTuple):
    body: bytes
    query: str
    status: int  # that is right


class Reply(NamedTuple):
    status: int
    body: bytes
    seconds: float


@contextlib.contextmanager
def served(model: str, *options: str, seconds: float = 300) -> Iterator[tuple[int, subprocess.Popen]]:
    """Runs the server; yields its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", "--model", model, "--port", str(port), *options]
    command = [sys.executable, "-c", COMMAND, *arguments]
    server = subprocess.Popen(command, stdout=sys.stderr.fileno(), start_new_session=True)  # LitServe logs there
    try:
        wait_until_ready(port, server, seconds)
        yield port, server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def wait_until_ready(port: int, server: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server ended with status {server.poll()}, or was not ready in {seconds:g} seconds")


def send(port: int, requests: Sequence[Request], clients: int) -> list[Reply]:
    """The replies to all requests, in their order, by clients that each wait for a reply before the next request."""
    local = threading.local()

    def reply_to(request: Request) -> Reply:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        start = time.perf_counter()
        local.connection.request("POST", f"/segment?{request.query}", request.body, {"Content-Type": "image/png"})
        reply = local.connection.getresponse()
        return Reply(reply.status, reply.read(), time.perf_counter() - start)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(reply_to, requests))


def family(pid: int) -> list[int]:
    """A process and its descendants, without those that have ended and wait for their parent."""
    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        return []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *itertools.chain.from_iterable(family(int(child)) for child in children)]


def cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, since they started."""
    fields = [Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split() for member in family(pid)]
    return sum(int(user) + int(system) for *_, user, system in (entry[:13] for entry in fields)) / TICK


def held(pid: int) -> dict[str, float]:
    """Memory in MiB (shared pages once) and open files of a process and its descendants."""
    members = family(pid)
    rollups = [Path(f"/proc/{member}/smaps_rollup").read_text() for member in members]
    kib = [int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:")]
    return {"mib": round(sum(kib) / 1024, 1), "files": sum(len(os.listdir(f"/proc/{member}/fd")) for member in members)}


def encoded(path: str, size: Sequence[int] | None) -> bytes:
    """A file's content, or a PNG of another size."""
    if size is None:
        return Path(path).read_bytes()
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize(tuple(size)).save(buffer, "PNG")
    return buffer.getvalue()


def throughput(args: argparse.Namespace) -> dict[str, object]:
    """Images per second and CPU seconds per image of the server, of its bare model, and their ratios, in turns."""
    contents = [encoded(path, args.size) for path in images_at(Path(args.input))[: args.images]]
    images = [decode_image(io.BytesIO(content)) for content in contents]
    requests = [Request(content, "", 200) for content in contents]
    segmenter = load(args.model, device="cpu")
    found: dict[str, list[float]] = {"bare": [], "served": [], "bare_cpu": [], "served_cpu": []}
    seconds: list[float] = []
    options = ("--batch-size", str(args.batch_size), "--replicas", str(args.replicas), "MODEL.DEVICE", "cpu")
    with served(args.model, *options) as (port, server):
        send(port, requests[: 2 * args.batch_size], args.clients)
        list(segmenter.stream(images[: 2 * args.batch_size], batch_size=args.batch_size))
        for _ in range(args.turns):
            start, cpu = time.perf_counter(), time.process_time()
            list(segmenter.stream(images, batch_size=args.batch_size))
            found["bare"].append(len(images) / (time.perf_counter() - start))
            found["bare_cpu"].append((time.process_time() - cpu) / len(images))
            start, cpu = time.perf_counter(), cpu_seconds(server.pid)
            replies = send(port, requests, args.clients)
            found["served"].append(len(images) / (time.perf_counter() - start))
            served_cpu = max(cpu_seconds(server.pid) - cpu, 1 / TICK)  # no more exact than that
            found["served_cpu"].append(served_cpu / len(images))
            if wrong := Counter(reply.status for reply in replies if reply.status != 200):
                raise RuntimeError(f"the server refused good images: {wrong}")
            seconds += [reply.seconds for reply in replies]
    ratio = statistics.median(served / bare for served, bare in zip(found["served"], found["bare"], strict=True))
    cpu_ratio = statistics.median(
        bare / served for served, bare in zip(found["served_cpu"], found["bare_cpu"], strict=True)
    )
    return found | {"ratio": ratio, "cpu_ratio": cpu_ratio, "load": os.getloadavg()[0]} | percentiles(seconds)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return dict(zip(("p50_s", "p99_s"), np.percentile(seconds, (50, 99)).round(4).tolist(), strict=True))


def bad_requests(good: bytes) -> list[Request]:
    """Everything that clients get wrong."""
    wide = io.BytesIO()
    Image.new("L", (5000, 4000)).save(wide, "PNG")
    return [
        Request(b"", "", 400),
        Request(b"no image", "", 415),
        Request(good[: len(good) // 2], "", 400),
        Request(wide.getvalue(), "", 413),
        Request(bytes(31_000_000), "", 413),
        Request(good, "names=a,a", 400),
        Request(good, f"names={'a%20' * 200}", 400),  # too long for the text tower
        Request(good, f"names={','.join(map(str, range(MOST_NAMES + 1)))}", 400),
        Request(good, "threshold=2", 400),
        Request(good, "output=gif", 422),
    ]


def load_test(args: argparse.Namespace) -> dict[str, object]:
    """Statuses, times and labels of many requests, some of them bad, and what the server holds before and after."""
    contents = [encoded(path, None) for path in images_at(Path(args.input))[: args.images]]
    queries = {"": None, "names=sky,grey%20gravel": ["sky", "grey gravel"]}  # both at once, in different requests
    good = [Request(content, query, 200) for content in contents for query in queries]
    bad = bad_requests(contents[0])
    chosen = [itertools.islice(itertools.cycle(kind), count) for kind, count in ((good, args.good), (bad, args.bad))]
    requests = list(itertools.chain(*chosen))
    random.Random(0).shuffle(requests)
    segmenter = load(args.model, device="cpu")
    right = {
        (content, query): segmenter(decode_image(io.BytesIO(content)), names, scores=False).labels
        for content in contents
        for query, names in queries.items()
    }
    with served(args.model, "MODEL.DEVICE", "cpu") as (port, server):
        send(port, requests, args.clients)  # until everything has been used once
        before = held(server.pid)
        rounds = []
        for _ in range(args.turns):
            start = time.perf_counter()
            replies = send(port, requests, args.clients)
            rounds.append({"seconds": time.perf_counter() - start} | held(server.pid))
    pairs = list(zip(requests, replies, strict=True))
    differing = [
        float((np.asarray(Image.open(io.BytesIO(reply.body))) != right[request.body, request.query]).mean())
        for request, reply in pairs
        if reply.status == 200
    ]
    return {
        "replies": len(replies),
        "statuses": Counter(reply.status for reply in replies),
        "wrong_status": sum(reply.status != request.status for request, reply in pairs),
        "label_maps_that_differ": sum(share > 0 for share in differing),
        "largest_share_of_pixels": max(differing),
        "before": before,
        "after": rounds,
        "load": os.getloadavg()[0],
    } | percentiles([reply.seconds for request, reply in pairs if request.status == 200])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    for name, measure in (("throughput", throughput), ("load", load_test)):
        command = commands.add_parser(name, help=measure.__doc__)
        command.set_defaults(measure=measure)
        command.add_argument("--model", required=True, help="folder of a run or saved model")
        command.add_argument("--input", required=True, help="folder of images")
        command.add_argument("--images", type=int, default=96, help="most of them to take")
        command.add_argument("--clients", type=int, default=16, help="requests under way")
        command.add_argument("--turns", type=int, default=5 if measure is throughput else 1)
        if measure is throughput:
            command.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="resize the images")
            command.add_argument("--batch-size", type=int, default=8)
            command.add_argument("--replicas", type=int, default=1, help="processes of the server with a model each")
        else:
            command.add_argument("--good", type=int, default=900)
            command.add_argument("--bad", type=int, default=100)
    args = parser.parse_args(arguments)
    print(json.dumps(args.measure(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
