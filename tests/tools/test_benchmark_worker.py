import io
import json
import sys

import pytest
import torch
from scripts import ROOT, load_script


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))  # where plain_reference.py is
    return load_script("tools/benchmark_worker.py")


COMMAND = {"device": "cpu", "dtype": "float32", "clock": "cpu", "size": 64, "batch": 1, "threads": 1, "classes": 4}


def answers(worker, monkeypatch, capsys, peer, mode, *flags, requests=("{}",)):
    """What the process writes, as one dict per line."""
    options = [part for name, value in {**COMMAND, "contexts": 1}.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["worker", peer, mode, *options, *flags])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(requests)))
    worker.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def tiny_peer(worker, monkeypatch):
    """A peer of two stages that note what they get."""
    seen = []

    def first(values):
        seen.append((tuple(values["images"].shape), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return {"x": values["images"].mean(), "images processed": 4}

    stages = {"first": first, "second": lambda values: {"y": values["x"] + 1}}
    for mode in ("infer", "train"):
        monkeypatch.setitem(worker.PEERS[mode], "tiny", lambda args: stages)
    return seen


@pytest.mark.parametrize(("mode", "gradients"), [("infer", False), ("train", True)])
def test_a_line_per_run_after_one_about_the_process(worker, tiny_peer, monkeypatch, capsys, mode, gradients):
    about, *runs = answers(worker, monkeypatch, capsys, "tiny", mode, requests=["{}", "{}"])
    assert (about["mode"], about["dtype"], about["compile"], about["threads"]) == (mode, "float32", False, 1)
    assert about["start_memory_mib"] > 0 and len(runs) == 2
    assert set(runs[0]["stages"]) == {"first", "second"} and min(runs[0]["stages"].values()) >= 0
    assert runs[0]["peak_memory_mib"] >= about["start_memory_mib"]
    assert tiny_peer == [((1, 3, 64, 64), gradients, False)] * 2


def test_reduced_precision_is_autocast(worker, tiny_peer, monkeypatch, capsys):
    monkeypatch.setitem(COMMAND, "dtype", "bfloat16")
    answers(worker, monkeypatch, capsys, "tiny", "infer")
    assert tiny_peer[0][2]


def test_a_request_changes_settings_from_there_on(worker, tiny_peer, monkeypatch, capsys):
    requests = ['{"size": 32, "dtype": "bfloat16"}', "{}", '{"batch": 2, "dtype": "tf32"}']
    answers(worker, monkeypatch, capsys, "tiny", "infer", requests=requests)
    assert tiny_peer == [((1, 3, 32, 32), False, True)] * 2 + [((2, 3, 32, 32), False, False)]


def test_backward_is_not_under_autocast(worker):
    seen = {}

    def stage(name):
        return lambda values: seen.update({name: torch.is_autocast_enabled("cpu")}) or {}

    args = type("Args", (), {"device": "cpu", "dtype": "bfloat16", "mode": "train", "clock": "wall"})
    worker.run({name: stage(name) for name in ("forward", "backward")}, torch.zeros(1), args)
    assert seen == {"forward": True, "backward": False}


def test_time_is_that_of_one_window(worker, monkeypatch):
    clock = iter([0.0, 8.0, 10.0])
    monkeypatch.setattr(worker, "mark", lambda args: next(clock))
    stages = {"windows": lambda values: {"images processed": 4}, "rest": lambda values: {}}
    args = type("Args", (), {"device": "cpu", "dtype": "float32", "mode": "infer"})
    assert worker.run(stages, torch.zeros(1), args) == {"windows": 2.0, "rest": 0.5}


@pytest.mark.parametrize(
    ("peer", "flags", "message"),
    [
        ("nobody", (), "no peer 'nobody' in mode infer; there are mask2former-r50, mta-clip-rn50, "),
        ("transformers-mask2former-r50", ("--compile",), "measured as its authors build it, not compiled"),
        ("official-mask2former-r50", (), "official-mask2former-r50 needs --official PATH"),
    ],
)
def test_wrong_peers_are_refused(worker, monkeypatch, capsys, peer, flags, message):
    with pytest.raises(SystemExit):
        answers(worker, monkeypatch, capsys, peer, "infer", *flags)
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "mode"),
    [
        ("mta-clip-rn50", "infer"),
        ("mta-clip-rn50-plain", "train"),
        ("mta-clip-tiny-photo", "infer"),
        ("transformers-mask2former-r50", "train"),
    ],
)
def test_real_peers_run(worker, monkeypatch, capsys, peer, mode):
    _, run = answers(worker, monkeypatch, capsys, peer, mode)
    assert all(seconds >= 0 for seconds in run["stages"].values())
