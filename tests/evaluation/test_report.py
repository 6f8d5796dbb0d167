import csv
import json

import numpy as np
import pytest

from mta_clip.evaluation.counts import SegmentationCounts
from mta_clip.evaluation.metrics import class_metrics
from mta_clip.evaluation.report import format_table, write_class_table, write_metrics

NAMES = ("sky", "red, striped disc", "cat")


@pytest.fixture
def metrics():
    counts = SegmentationCounts.zeros(3)
    counts.confusion += np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    return class_metrics(counts)


def test_nan_becomes_null(tmp_path):
    write_metrics(tmp_path / "sub" / "metrics.json", {"sem_seg/mIoU": 12.5, "sem_seg/IoU-Katze é": float("nan")})
    text = (tmp_path / "sub" / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"sem_seg/mIoU": 12.5, "sem_seg/IoU-Katze é": None}
    assert "NaN" not in text


def test_class_table(tmp_path, metrics):
    write_class_table(tmp_path / "per_class.csv", metrics, NAMES, unseen=[1])
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open(encoding="utf-8")))
    assert [row["class"] for row in rows] == list(NAMES)
    assert [row["split"] for row in rows] == ["seen", "unseen", "seen"]
    assert [row["IoU"] for row in rows] == ["75.0000", "50.0000", ""]
    assert [row["true_pixels"] for row in rows] == ["8", "2", "0"]
    assert [row["predicted_pixels"] for row in rows] == ["6", "4", "0"]


def test_log_table(metrics):
    text = format_table({"mIoU": 62.5}, metrics, NAMES, unseen=[1])
    assert "62.50" in text and "red, striped disc *" in text and "held out" in text
    (cat,) = [line for line in text.splitlines() if line.startswith("cat")]
    assert cat.split() == ["cat", "-", "-", "0.00"]


@pytest.mark.parametrize("count", [1, 12, 13, 171])
def test_every_class_is_in_the_log_table_once(count):
    counts = SegmentationCounts.zeros(count)
    counts.confusion += np.eye(count, dtype=np.int64)
    names = [f"class-{i}-" for i in range(count)]
    text = format_table({"mIoU": 100.0}, class_metrics(counts), names)
    assert [text.count(name) for name in names] == [1] * count
    assert "held out" not in text
