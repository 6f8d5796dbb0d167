import argparse
import json
import time
from typing import ClassVar

import pytest
import torch
from scripts import ROOT, load_script


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return load_script("tools/gpu_stages.py")


@pytest.fixture
def timing(stages):
    import gpu_timing

    return gpu_timing


def rehearse(stages, tmp_path, stage):
    """Runs a stage in this process; returns its rows."""
    file = tmp_path / f"{stage}.json"
    stages.main([stage, "--json", str(file), "--until", str(time.time() + 100), "--rehearse"])
    rows = json.loads(file.read_text())["rows"]
    assert [row["error"] for row in rows if "error" in row] == []
    return rows


def test_every_form_of_sampling_gives_the_plain_numbers(stages, timing, tmp_path):
    rows = rehearse(stages, tmp_path, "sampling")
    assert {row["form"] for row in rows} == set(timing.sampling_forms()) >= {"auto", "grid_sample"}
    for row in rows:
        if "not run" not in row:
            assert row["difference"] < {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}[row["dtype"]]
            assert row["forward, ms"] > 0 and row["with backward, ms"] > 0


def test_forms_are_those_of_the_package(timing, monkeypatch):
    from mta_clip.modeling import ops

    def operator(*args, form="auto"):
        return form

    operator.forms = ("auto", "new")
    monkeypatch.setattr(ops, "deformable_sampling", operator)
    assert {name: form() for name, form in timing.sampling_forms().items()} == {"auto": "auto", "new": "new"}


def test_a_form_that_cannot_run_here_says_why(stages, timing):
    def needs_a_gpu(*args):
        raise ValueError("needs a GPU")

    inputs = timing.sampling_inputs(64, 1, "cpu")
    assert timing.time_sampling(needs_a_gpu, inputs, torch.float32, stages.REHEARSAL) == {"not run": "needs a GPU"}


class FakeWorker:
    """Takes as many seconds as its batch, transformers' twice as many; ends at an image side of 13.

    One that is called "unable" does not start.
    """

    started: ClassVar[list] = []

    def __init__(self, peer, settings):
        self.peer, self.rounds, self.about = peer, [], {"batch": settings.batch}
        self.started.append(peer)
        if peer == "unable":
            raise RuntimeError("needs more")

    def run_round(self, **settings):
        self.about |= settings
        if settings["size"] == 13:
            raise RuntimeError("the process ended")
        self.rounds.append(settings["batch"] * (2 if self.peer.startswith("transformers") else 1))

    def summary(self):
        seconds = {"median": self.rounds[-1], "min": self.rounds[0], "max": self.rounds[-1]}
        memory = {"peak_memory_mib": 30, "start_memory_mib": 10, "stages": {"all": self.rounds[-1]}}
        return {"peer": self.peer, "seconds": seconds, **self.about, **memory}

    def close(self):
        pass


def test_peers_are_compared_in_equal_settings(stages, timing, tmp_path, monkeypatch):
    monkeypatch.setattr(timing.benchmark, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "started", [])
    args = argparse.Namespace(official=None)
    record = stages.Record(tmp_path / "x.json")
    names = [timing.benchmark.TRANSFORMERS, "mta-clip-rn50", "unable"]
    jobs = [(64, 1, "float32"), (64, 4, "float32"), (13, 1, "float32"), (32, 2, "tf32")]
    timing.compare(record, timing.Peers("infer", stages.REHEARSAL, args), names, jobs)
    assert sorted(FakeWorker.started) == sorted(names + names[:2]), "one that ended is started again"
    ours = [row for row in record.rows if row["model"] == "mta-clip-rn50"]
    assert [row.get("/ transformers") for row in ours] == [0.5, 0.5, None, 0.5]
    assert [row.get("images/s") for row in ours] == [1.0, 1.0, None, 1.0]
    assert "the process ended" in ours[2]["error"] and ours[0]["of it for the run"] == 20
    assert [row["error"] for row in record.rows if row["model"] == "unable"] == 4 * ["RuntimeError: needs more"]

    FakeWorker.started.clear()
    timing.compare(record, timing.Peers("infer", stages.REHEARSAL, args), names[:2], jobs[:2])
    assert FakeWorker.started == [], "nothing is missing"


def test_busy_time_counts_what_overlaps_once(timing):
    assert timing.busy_time([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == (7, 5)


def test_a_profile_names_the_largest(stages, timing, monkeypatch):
    def matmul(values):
        return {"product": values["images"].flatten(1) @ values["images"].flatten(1).T}

    monkeypatch.setitem(timing.benchmark_worker.PEERS["infer"], "mta-clip-rn50", lambda args: {"all": matmul})
    idle, *largest = timing.kernels("infer", 64, 2, stages.REHEARSAL)
    assert idle["kernel"] == "(idle)" and 0 <= idle["share"] < 1
    assert any("aten::mm" in row["kernel"] for row in largest) and len(largest) <= 10
    shares = [row["share"] for row in largest]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.001


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["inference", "training", "profile"])
def test_rehearsals_with_real_models(stages, tmp_path, stage):
    rows = rehearse(stages, tmp_path, stage)
    assert len(rows) >= 3
