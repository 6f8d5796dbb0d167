import math

import numpy as np
import pytest

from mta_clip.evaluation.counts import SegmentationCounts
from mta_clip.evaluation.metrics import class_metrics, harmonic_mean, summary_metrics


def counts_of(confusion):
    counts = SegmentationCounts.zeros(len(confusion))
    counts.confusion += np.array(confusion)
    counts.images = 1
    return counts


def test_hand_computed_example():
    # class 0: 6 of 8 pixels found; class 1: 2 of 2 found, 2 of 4 right; class 2 predicted nowhere, true nowhere
    counts = counts_of([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    metrics = class_metrics(counts)
    assert metrics.iou[:2].tolist() == [6 / 8, 2 / 4] and math.isnan(metrics.iou[2])
    assert metrics.accuracy[:2].tolist() == [6 / 8, 1.0] and math.isnan(metrics.accuracy[2])
    assert metrics.precision[:2].tolist() == [1.0, 2 / 4]
    assert summary_metrics(counts) == pytest.approx(
        {"mIoU": 0.625, "fwIoU": 0.8 * 0.75 + 0.2 * 0.5, "mACC": 0.875, "pACC": 0.8}
    )


def test_one_pixel_is_enough():
    assert summary_metrics(counts_of([[3, 0], [0, 1]]))["fwIoU"] == 1
    assert harmonic_mean(0.5, 0.5) == 0.5


def test_a_class_that_is_only_predicted_counts_as_zero():
    summary = summary_metrics(counts_of([[3, 1], [0, 0]]))
    assert summary["mIoU"] == pytest.approx((0.75 + 0.0) / 2)
    assert summary["mACC"] == pytest.approx(0.75)


@pytest.mark.filterwarnings("error")
def test_nothing_counted_is_nan_not_zero():
    assert all(math.isnan(value) for value in summary_metrics(SegmentationCounts.zeros(3)).values())


def test_boundaries_are_averaged_over_the_classes_that_have_some():
    counts = counts_of([[4, 0, 0], [0, 4, 0], [0, 0, 0]])
    counts.boundary_intersection += [1, 3, 0]
    counts.boundary_union += [2, 4, 0]
    assert summary_metrics(counts)["boundary_mIoU"] == (1 / 2 + 3 / 4) / 2


def test_seen_and_unseen_means():
    counts = counts_of([[6, 2, 0], [0, 2, 0], [0, 0, 0]])
    summary = summary_metrics(counts, unseen=[1])
    assert summary["mIoU_seen"] == pytest.approx(0.75)  # class 2 is absent and left out
    assert summary["mIoU_unseen"] == pytest.approx(0.5)
    assert summary["hIoU"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)


@pytest.mark.parametrize(
    ("seen", "unseen", "expected"), [(91.9, 77.8, 84.26), (93.5, 85.2, 89.16), (40.7, 43.1, 41.87), (0, 0, 0)]
)
def test_harmonic_mean_of_published_numbers(seen, unseen, expected):
    assert harmonic_mean(seen, unseen) == pytest.approx(expected, abs=0.005)


def test_equals_an_independent_count_over_random_maps():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (4, 40, 50)), rng.integers(0, 5, (4, 40, 50))
    counts = SegmentationCounts.zeros(5)
    for t, p in zip(truth, prediction, strict=True):
        counts.update(t, p, ignore_label=255)
    expected = [((truth == c) & (prediction == c)).sum() / ((truth == c) | (prediction == c)).sum() for c in range(5)]
    assert class_metrics(counts).iou == pytest.approx(expected)
    assert summary_metrics(counts)["pACC"] == pytest.approx((truth == prediction).mean())
    assert "boundary_mIoU" not in summary_metrics(counts)
