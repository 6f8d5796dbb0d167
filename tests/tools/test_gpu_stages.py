import argparse
import json
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from scripts import ROOT, load_script


@pytest.fixture
def stages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return load_script("tools/gpu_stages.py")


def rehearse(stages, tmp_path, stage, *options):
    """Runs a stage in this process; returns its record."""
    file = tmp_path / f"{stage}.json"
    stages.main([stage, "--json", str(file), "--until", str(time.time() + 100), "--rehearse", *options])
    record = json.loads(file.read_text())
    assert [row["error"] for row in record["rows"] if "error" in row] == []
    return record


def test_a_record_is_complete_after_every_row(stages, tmp_path):
    file, seen = tmp_path / "x.json", []

    def job():
        seen.append(json.loads(file.read_text())["rows"])
        return {"ms": 1}

    def broken():
        raise ValueError("no")

    record = stages.Record(file)
    record.measure({"a": 1, "b": 1}, job)
    record.measure({"a": 2}, broken)
    record.measure({"a": 3}, lambda: [{"part": 1}, {"part": 2}])
    assert seen == [[]]
    rows = json.loads(file.read_text())["rows"]
    assert rows == [
        {"a": 1, "b": 1, "ms": 1},
        {"a": 2, "error": "ValueError: no"},
        {"a": 3, "part": 1},
        {"a": 3, "part": 2},
    ]

    stages.Record(file, keep_errors=True).measure({"a": 2}, broken)  # is not called
    assert json.loads(file.read_text())["rows"] == rows

    again = stages.Record(file)
    for key in ({"a": 1, "b": 1}, {"a": 3}):
        again.measure(key, broken)  # is not called: there are rows
    again.measure({"a": 2}, lambda: {"ms": 2})
    assert [row.get("ms") for row in again.rows] == [1, None, None, 2]


def test_a_lost_gpu_ends_the_process(stages, tmp_path, monkeypatch):
    def synchronize():
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(SystemExit) as end:
        stages.Record(tmp_path / "x.json").measure({"a": 1}, synchronize)
    assert end.value.code == load_script("tools/gpu_plan.py").GPU_LOST
    assert "device-side" in json.loads((tmp_path / "x.json").read_text())["rows"][0]["error"]


def test_models_take_a_step(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "REHEARSAL", replace(stages.REHEARSAL, models=("shapes/mta_clip_tiny",)))
    record = rehearse(stages, tmp_path, "smoke")
    assert [row["config"] for row in record["rows"]] == ["shapes/mta_clip_tiny"]
    assert record["rows"][0]["loss"] > 0 and any(torch.__version__ in note for note in record["notes"])


def test_commands_that_are_missing_stop_nothing(stages):
    assert stages.output_of(["no-such-command"]) == stages.output_of(["false"]) == "unknown"
    assert stages.output_of(["echo", "there"]) == "there"


def test_losses_that_are_not_finite_fail(stages, tmp_path, monkeypatch):
    from mta_clip.modeling import MTACLIP

    monkeypatch.setattr(MTACLIP, "losses", lambda self, images, labels: {"loss": images.sum() * self_nan(self)})
    with pytest.raises(ArithmeticError, match="not finite"):
        stages.one_step("shapes/mta_clip_tiny", stages.REHEARSAL)


def self_nan(model):
    return next(p for p in model.parameters() if p.requires_grad).sum() * float("nan")


OUTPUT = """
tests/a/test_x.py::test_one[a b] PASSED                    [ 50%]
tests/a/test_x.py::test_two FAILED                         [ 75%]
tests/a/test_y.py::test_three SKIPPED (no CUDA device)     [100%]
"""


@pytest.mark.parametrize(("hangs", "finished"), [(False, None), (True, "no")])
def test_outcomes_are_counted_also_of_an_unfinished_run(stages, tmp_path, monkeypatch, hangs, finished):
    class Pytest:
        def __init__(self, command, *, stdout, env, **_):
            assert command[-1] == "tests/a" and env["MTA_CLIP_GOLDEN_DEVICE"] == "cuda"
            stdout.write(OUTPUT)
            self.waited = False

        def wait(self, timeout=None):
            if hangs and timeout:
                raise subprocess.TimeoutExpired("pytest", timeout)
            return 1

        def kill(self):
            pass

    monkeypatch.setattr(stages.subprocess, "Popen", Pytest)
    counts = stages.run_pytest(["tests/a"], "cuda", tmp_path / "parity", 1)
    expected = {"passed": 1, "failed": 1, "errors": 0, "skipped": 1, "broken": "tests/a/test_x.py::test_two"}
    assert counts == expected | ({"finished": finished} if finished else {})


@pytest.mark.slow
def test_golden_numbers_are_compared_on_the_device(stages, tmp_path):
    first, *compared = rehearse(stages, tmp_path, "tests")["rows"]
    assert first["passed"] > 0 and first["failed"] == first["errors"] == 0
    assert any(row["tests"] == "golden: mask logits" and row["largest_difference"] > 0 for row in compared)


def test_images_per_second_of_the_loader(stages, tmp_path):
    (tmp_path / "training.json").write_text('{"rows": [{"images/s": 7.0}, {"images/s": 90.0}, {"error": "x"}]}')
    record = rehearse(stages, tmp_path, "loading")
    assert [row["processes"] for row in record["rows"]] == [0] and record["rows"][0]["images/s"] > 0
    assert "takes 90 images/s" in record["notes"][-1]


def test_camvid_is_skipped_where_there_is_none(stages, datasets_root, tmp_path):
    record = stages.Record(tmp_path / "camvid.json")
    stages.camvid(record, stages.ON_A_GPU, argparse.Namespace(seconds=10, rehearse=False, opts=[], json=record.file))
    assert record.content["skipped"] and str(datasets_root) in record.content["notes"][0]


def test_camvid_takes_as_many_iterations_as_fit(stages, tmp_path, monkeypatch):
    runs = []

    def train(output, config, options, iterations):
        runs.append((options[-2:], iterations))
        output.mkdir()
        (output / "training_metrics.json").write_text('{"time": 0.5}\n{"data_time": 1}\n{"time": 0.7}\n')
        (output / "metrics.json").write_text('{"sem_seg/mIoU": 12.0}')

    monkeypatch.setattr(stages, "train", train)
    plan = replace(stages.ON_A_GPU, probe_iterations=10)
    result = stages.train_camvid(tmp_path, plan, ["SEED", "1"], stages.time.monotonic() + 60)
    assert result["mIoU"] == 12.0 and result["iterations"] == runs[1][1]
    assert runs[0] == (["DATASETS.TEST", "()"], 10)
    assert runs[1][0] == ["SEED", "1"]
    assert 90 <= runs[1][1] <= 110  # 0.9 of a minute and of the 6 s that starting did not take


def test_without_a_gpu_there_is_only_the_rehearsal(stages, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit) as refused:
        stages.main(["smoke", "--json", str(tmp_path / "x.json"), "--until", "1"])
    assert "--rehearse" in str(refused.value)
