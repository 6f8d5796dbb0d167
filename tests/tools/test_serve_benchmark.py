import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from dataset_files import write_photos
from saved_models import mta_clip_config, segmenter
from scripts import load_script

from mta_clip.serving.requests import Refused, read_job


@pytest.fixture(scope="module")
def benchmark():
    return load_script("tools/serve_benchmark.py")


@pytest.fixture
def served(benchmark, monkeypatch):
    """A stand-in in this process: an empty answer to every request, of status 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    @contextlib.contextmanager
    def serve(model, *options):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, SimpleNamespace(pid=os.getpid())
        server.shutdown()

    monkeypatch.setattr(benchmark, "served", serve)


def test_throughput(benchmark, served, tmp_path, capsys):
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    photos = write_photos(tmp_path / "photos")
    command = ["throughput", "--model", str(saved), "--input", str(photos), "--turns", "1", "--size", "40", "30"]
    assert benchmark.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] == pytest.approx(found["served"][0] / found["bare"][0])
    assert found["p99_s"] >= found["p50_s"] > 0


def test_the_bad_requests_are_bad(benchmark, tmp_path):
    """Those that need no model and no server are refused with the status that the benchmark expects."""
    good = benchmark.encoded(str(next(write_photos(tmp_path / "photos").glob("*.png"))), (40, 30))
    plain = [entry for entry in benchmark.bad_requests(good) if not entry.query and len(entry.body) < 30_000_000]
    assert len(plain) == 4
    for entry in plain:
        with pytest.raises(Refused) as refused:
            read_job(entry.body, max_pixels=16_000_000)
        assert refused.value.status == entry.status


def test_memory_and_files(benchmark, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    before = benchmark.held(os.getpid())
    with (tmp_path / "a").open("w"):
        assert benchmark.held(os.getpid())["files"] >= before["files"] + 1
    assert before["mib"] > 10 and benchmark.cpu_seconds(os.getpid()) > 0
    assert ended.pid not in benchmark.family(os.getpid())
    ended.wait()
