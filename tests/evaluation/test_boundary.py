import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from mta_clip.evaluation.boundary import boundary_band, boundary_counts


def band_of_one_mask(mask, radius):
    """The paper's definition for one binary mask: what erosion by the radius takes away, zeros outside the image."""
    return mask & ~binary_erosion(mask, np.ones((3, 3), bool), iterations=radius, border_value=0)


def blocky_labels(seed, classes, size=(61, 83)):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size[0] // 9 + 1, size[1] // 9 + 1))
    return coarse.repeat(9, 0).repeat(9, 1)[: size[0], : size[1]]


@pytest.mark.parametrize("radius", [1, 2, 7, 100])
def test_one_pass_equals_the_definition_class_by_class(radius):
    labels = blocky_labels(0, 4)
    band = boundary_band(labels, np.ones(labels.shape, bool), radius)
    for label in range(4):
        assert np.array_equal(band & (labels == label), band_of_one_mask(labels == label, radius))


def test_counts_equal_the_definition():
    truth, prediction = blocky_labels(1, 5), blocky_labels(2, 5)
    prediction[:40] = truth[:40]
    valid = np.ones(truth.shape, bool)
    radius = round(0.02 * np.hypot(*truth.shape))
    intersection, union = boundary_counts(truth, prediction, valid, num_classes=5, dilation=0.02)
    for label in range(5):
        a, b = band_of_one_mask(truth == label, radius), band_of_one_mask(prediction == label, radius)
        assert (intersection[label], union[label]) == ((a & b).sum(), (a | b).sum())


def test_ignored_pixels_neither_count_nor_make_contours():
    truth = blocky_labels(3, 3)
    truth[20:40, 20:60] = 255
    prediction = np.where(truth == 255, 1, truth)
    intersection, union = boundary_counts(truth, prediction, truth != 255, num_classes=3, dilation=0.02)
    assert np.array_equal(intersection, union) and union.sum() > 0
    whole = np.full((50, 50), 2)
    whole[10:20, 10:20] = 255
    band = boundary_band(whole, whole != 255, 2) & (whole != 255)
    assert band[:2].all() and not band[5:45, 5:45].any()
