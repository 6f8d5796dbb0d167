import json

import pytest
from dataset_files import write_photos
from saved_models import mta_clip_config, segmenter
from scripts import load_script

from mta_clip.labelling.worker import Labeller


@pytest.fixture(scope="module")
def benchmark():
    return load_script("tools/label_benchmark.py")


def test_overhead(benchmark, tmp_path, capsys):
    saved = segmenter(mta_clip_config()).save(tmp_path / "saved")
    photos = write_photos(tmp_path / "photos")
    assert benchmark.main(["overhead", "--config-file", str(saved), "--input", str(photos), "--turns", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 3 and found["overhead"] == pytest.approx(found["labeller"][0] / found["bare"][0] - 1)


def test_memory(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.Engine, "run", lambda self, task, blocks: map(Labeller(task, "cpu"), blocks))
    assert benchmark.main(["memory", "--images", "1100"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["failed"]) == (1100, 0)
    assert found["mib"][-1][0] <= 1100 and all(10 < mib < 50_000 for _, mib in found["mib"])
