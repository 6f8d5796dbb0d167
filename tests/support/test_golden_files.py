"""The comparison of the parity tests: what it lets through, what it refuses, what it records."""

import json

import golden_files
import numpy as np
import pytest
import torch
from golden_files import compare


def test_within_tolerance_passes():
    compare("x", torch.tensor([1.0, 100.0]), torch.tensor([1.00005, 100.05]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (torch.tensor([1.0, 2.1]), r"1 of 2 values .* at \(1,\)"),
        (torch.tensor([1.0, float("nan")]), r"at \(1,\)"),
        (torch.tensor([float("inf"), 2.0]), r"at \(0,\)"),
        (torch.tensor([[1.0, 2.0]]), "shape"),
    ],
)
def test_difference_is_refused_with_its_place(actual, message):
    with pytest.raises(AssertionError, match=message):
        compare("x", actual, torch.tensor([1.0, 2.0]))


def test_equal_infinities_and_scalars_agree():
    compare("x", torch.tensor([float("inf"), float("nan")]), torch.tensor([float("inf"), float("nan")]), atol=0.0)
    compare("x", torch.tensor(1.0), torch.tensor(1.0), atol=0.0)
    compare("x", torch.tensor([True, False]), torch.tensor([1, 0]), atol=0.0)


def test_scalar_difference_is_named():
    with pytest.raises(AssertionError, match="expected 2"):
        compare("x", torch.tensor(1.0), torch.tensor(2.0))


def test_largest_difference_is_recorded_even_if_it_fails(tmp_path, monkeypatch):
    report = tmp_path / "report.jsonl"
    monkeypatch.setenv("MTA_CLIP_PARITY_REPORT", str(report))
    compare("logits", torch.tensor([1.0, -4.0]), torch.tensor([1.5, -4.0]), atol=1.0)
    with pytest.raises(AssertionError):
        compare("logits", torch.tensor([1.0]), torch.tensor([3.0]))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["largest_difference"] for line in lines] == [0.5, 2.0]
    assert lines[0]["largest_value"] == 4.0
    assert lines[0]["label"] == "logits"
    assert "test_largest_difference_is_recorded" in lines[0]["test"]


def test_arrays_are_on_the_device_that_is_named(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", config="{}", values=np.zeros(3))
    monkeypatch.setattr(golden_files, "GOLDEN_DEVICE", "meta")
    assert golden_files.load(tmp_path / "x.npz")[1]["values"].device.type == "meta"
