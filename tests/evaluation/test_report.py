import csv
import json
import math

import numpy as np
import pytest

from mta_clip.evaluation.counts import SegmentationCounts
from mta_clip.evaluation.metrics import class_metrics
from mta_clip.evaluation.report import format_datasets, format_table, write_class_table, write_metrics

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
    assert "62.50" in text and "red, striped disc *" in text and "* not seen" in text
    (cat,) = [line for line in text.splitlines() if line.startswith("cat")]
    assert cat.split() == ["cat", "-", "-", "0.00"]
    text = format_table({"mIoU": 62.5}, metrics, ["sky;heavens", *NAMES[1:]])
    assert "sky " in text and "heavens" not in text


@pytest.mark.parametrize("count", [1, 12, 13, 171])
def test_every_class_is_in_the_log_table_once(count):
    counts = SegmentationCounts.zeros(count)
    counts.confusion += np.eye(count, dtype=np.int64)
    names = [f"class-{i}-" for i in range(count)]
    text = format_table({"mIoU": 100.0}, class_metrics(counts), names)
    assert [text.count(name) for name in names] == [1] * count
    assert "held out" not in text


def test_a_table_of_datasets_ends_with_their_means():
    results = {
        "a_val": {"mIoU": 40.0, "IoU-sky": 40.0},
        "b_val": {"mIoU": 20.0, "mIoU_seen": 30.0, "mIoU_unseen": 10.0, "hIoU": 15.0, "IoU-sky": 30.0, "IoU-cat": 10.0},
        "c_val": {"mIoU": 10.0, "mIoU_seen": math.nan, "mIoU_unseen": 10.0, "hIoU": math.nan, "IoU-cat": 10.0},
    }
    assert [line.split() for line in format_datasets(results).splitlines()[2:]] == [
        ["a_val", "1", "40.00", "40.00", "-", "-"],
        ["b_val", "2", "20.00", "30.00", "10.00", "15.00"],
        ["c_val", "1", "10.00", "-", "10.00", "-"],
        ["mean", "23.33", "35.00", "10.00", "15.00"],
    ]
