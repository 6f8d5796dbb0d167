import numpy as np
import pytest

from mta_clip.visualization import draw_overlay
from mta_clip.visualization.overlay import label_borders

COLORS = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)


def test_blends_classes_and_leaves_ignored_pixels():
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 255], [0, 1, -1]])
    overlay = draw_overlay(image, labels, COLORS, alpha=0.5, contours=False)
    assert overlay[0].tolist() == [[150, 50, 50], [50, 100, 50], [100, 100, 100]]
    assert overlay[1, 2].tolist() == [100, 100, 100]


def test_alpha_bounds():
    image, labels = np.full((4, 4, 3), 9, np.uint8), np.zeros((4, 4), int)
    assert np.array_equal(draw_overlay(image, labels, COLORS, alpha=0), image)
    assert (draw_overlay(image, labels, COLORS, alpha=1) == COLORS[0]).all()
    with pytest.raises(ValueError, match="alpha"):
        draw_overlay(image, labels, COLORS, alpha=1.5)


def test_contours_lie_on_borders_only():
    labels = np.zeros((20, 20), np.int64)
    labels[:, 10:] = 1
    borders = label_borders(labels)
    assert (borders[:, 10] == 1).all()
    assert (borders[:, :7] == 0).all() and (borders[:, 14:] == 0).all()
    assert (label_borders(np.full((5, 5), 3)) == 0).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="cannot carry"):
        draw_overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int), COLORS)
