import numpy as np

from mta_clip.evaluation.boundary import boundary_counts
from mta_clip.evaluation.counts import SegmentationCounts, confusion_matrix


def test_rows_are_truth_and_columns_are_predictions():
    assert confusion_matrix(np.array([0, 0, 2, 2]), np.array([0, 1, 2, 0]), 3).tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [1, 0, 1],
    ]


def test_classes_that_do_not_occur_have_their_rows():
    assert confusion_matrix(np.array([0]), np.array([0]), 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_uint8_labels_do_not_overflow():
    labels = np.full((10, 10), 199, np.uint8)
    assert confusion_matrix(labels, labels, 200)[199, 199] == 100


def test_boundaries_are_added_up():
    truth, prediction = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    truth[:6], prediction[:5] = 1, 1
    counts = SegmentationCounts.zeros(2)
    for times in (1, 2):
        counts.update(truth, prediction, ignore_label=255, boundary_dilation=0.02)
        intersection, union = boundary_counts(truth, prediction, truth != 255, num_classes=2, dilation=0.02)
        assert counts.boundary_intersection.tolist() == (times * intersection).tolist()
        assert counts.boundary_union.tolist() == (times * union).tolist() and (union > intersection).all()


def test_sums_of_parts_equal_the_whole():
    rng = np.random.default_rng(0)
    truths, predictions = rng.integers(0, 4, (6, 20, 30)), rng.integers(0, 3, (6, 20, 30))
    truths[truths == 3] = 255
    whole, first, second = (SegmentationCounts.zeros(3) for _ in range(3))
    for index in range(6):
        for counts in (whole, first if index < 2 else second):
            counts.update(truths[index], predictions[index], ignore_label=255, boundary_dilation=0.02)
    joined = first + second
    assert joined.images == whole.images == 6
    assert np.array_equal(joined.confusion, whole.confusion)
    assert np.array_equal(joined.boundary_intersection, whole.boundary_intersection)
    assert np.array_equal(joined.boundary_union, whole.boundary_union)
    assert whole.confusion.sum() == (truths != 255).sum()
