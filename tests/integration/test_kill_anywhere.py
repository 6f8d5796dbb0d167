"""The campaign of tools/reliability/kill_anywhere.py, in short, and whether it sees what it looks for."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from scripts import ROOT, load_script

FOLDER = ROOT / "tools" / "reliability"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: load_script(FOLDER / f"{name}.py")


def test_a_preparation_that_is_killed_twice_ends_as_if_it_had_not_been(tool, tmp_path):
    campaign = tool("kill_anywhere").Campaign(tmp_path, seed=3, only=["prepare_ade20k"])
    campaign.prepare()
    trial = campaign.kill(0)
    assert trial.kills and trial.troubles == []


def test_a_difference_is_seen(tool, tmp_path):
    campaign = tool("kill_anywhere").Campaign(tmp_path, seed=3, only=["prepare_ade20k"])
    campaign.prepare()
    campaign.references["prepare_ade20k"].state["run/one_more.png"] = "0"
    assert "run/one_more.png is missing" in campaign.kill(0).troubles


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_final.pth", b"PK", "model_final.pth: "),
        ("metrics.json", b'{"mIoU": 4', "metrics.json: JSONDecodeError"),
        ("training_metrics.json", b'{"iteration": 1, "loss": 1}\n{"iteration": 1, "loss": 2}\n', "two values of loss"),
        ("last_checkpoint", b"model_0000004.pth", "names model_0000004.pth, which is not there"),
        ("labels/a.png", b"\x89PNG", "UnidentifiedImageError"),
        ("config.yaml", b"a: [", "ParserError"),
        ("per_class.csv", b"", "is empty"),
    ],
)
def test_a_damaged_file_is_seen(tool, tmp_path, name, content, message):
    evidence = tool("kill_evidence")
    (tmp_path / "labels").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "labels" / "b.png")
    torch.save({"model": {}}, tmp_path / "model_best.pth")
    (tmp_path / "x.json.part").write_text("{")  # of a file that is being written
    (tmp_path / "training_metrics.json").write_text(json.dumps({"iteration": 0}) + '\n{"iter')  # --resume cuts this off
    assert evidence.damaged(tmp_path) == []
    (tmp_path / name).write_bytes(content)
    (trouble,) = evidence.damaged(tmp_path)
    assert message in trouble


def test_states_of_checkpoints_are_compared_bit_by_bit(tool, tmp_path):
    evidence = tool("kill_evidence")
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save({"model": {"w": torch.tensor([1.0, 0.0])}, "iteration": 3}, first)
    torch.save({"model": {"w": torch.tensor([1.0, -0.0])}, "iteration": 3}, second)
    assert evidence.digest(first) != evidence.digest(second)
    torch.save({"model": {"w": torch.tensor([1.0, 0.0])}, "iteration": 3}, second)
    assert evidence.digest(first) == evidence.digest(second)


def run(name: str, *options: object) -> str:
    """Runs a campaign as a user does; returns what it printed."""
    command = [sys.executable, str(FOLDER / name), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_six_kills(tmp_path):
    assert "kill_0" in run("kill_anywhere.py", "--kills", 6, "--output", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stopped", "NaN"])
def test_two_processes_of_which_one_goes_wrong(tmp_path, fault):
    options = ("--processes", 2, "--faults", fault, "--restarts", 0, "--output", tmp_path)
    assert "process 1" in run("process_faults.py", *options)


@pytest.mark.slow
def test_a_short_soak(tmp_path):
    assert "equal" in run("soak.py", "--iterations", 200, "--repeat", 10, "--output", tmp_path)
    assert (tmp_path / "soak.png").is_file()
