"""Plots of benchmark sweeps."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def report(*sizes: int) -> list[dict]:
    settings = {"mode": "infer", "device": "cpu", "batch": 1, "classes": 3, "contexts": 1, "threads": 1, "clock": "cpu"}
    result = {"peer": "model", "seconds": {"median": 3.0}, "stages": {"a": 1.0, "b": 2.0}, "peak_memory_mib": 10.0}
    return [{"settings": {**settings, "size": size}, "results": [result]} for size in sizes]


def plot(path: Path, output: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools/performance_plots.py", path, "--output", output]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_draws_a_sweep(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(report(64, 128)))
    done = plot(tmp_path / "sweep.json", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plots/size.png").read_bytes().startswith(b"\x89PNG")


def test_refuses_what_is_no_sweep(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(report(64, 64)))
    done = plot(tmp_path / "one.json", tmp_path / "plots")
    assert done.returncode != 0 and "not a sweep" in done.stderr
