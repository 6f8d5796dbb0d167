import numpy as np
import pytest

from mta_clip.visualization import Panel, compose_panels, distinct_colors, prediction_panel
from mta_clip.visualization.panel import MARGIN, MAX_SIDE, MIN_SIDE, display_size

NAMES = ("sky", "road")


@pytest.mark.parametrize("size", [(96, 96), (50, 400), (3000, 4000), (600, 800), (1, 5000)])
def test_display_size_is_bounded_and_keeps_the_aspect(size):
    height, width = display_size(*size)
    assert max(height, width) <= MAX_SIDE
    assert max(height, width) == MAX_SIDE or min(height, width) >= MIN_SIDE
    if min(height, width) > 20:
        assert height / width == pytest.approx(size[0] / size[1], rel=0.02)


def test_panel_shows_input_then_prediction_then_legend():
    image = np.full((500, 600, 3), 120, np.uint8)
    labels = np.zeros((500, 600), np.int64)
    sheet = np.array(prediction_panel(image, labels, NAMES, distinct_colors(2), alpha=1.0))
    middle = sheet[sheet.shape[0] // 2]
    assert middle[MARGIN + 300].tolist() == [120, 120, 120]
    assert middle[2 * MARGIN + 600 + 300].tolist() == distinct_colors(2)[0].tolist()
    assert sheet.shape[1] > 2 * 600 + 4 * MARGIN


def test_labels_are_never_mixed_when_enlarged():
    labels = np.array([[0, 2], [2, 0]])
    colors = distinct_colors(3)
    sheet = np.array(prediction_panel(np.zeros((2, 2, 3), np.uint8), labels, ("a", "b", "c"), colors, alpha=1.0))
    assert not (sheet == colors[1]).all(-1).any()


def test_heatmaps_are_further_panels():
    image, labels = np.zeros((450, 450, 3), np.uint8), np.zeros((450, 450), int)
    plain = prediction_panel(image, labels, NAMES, distinct_colors(2))
    more = prediction_panel(image, labels, NAMES, distinct_colors(2), heatmaps={"Trusty": np.zeros((30, 30))})
    assert more.width == plain.width + 450 + MARGIN


def test_an_image_without_any_class_has_no_legend():
    sheet = prediction_panel(np.zeros((450, 450, 3), np.uint8), np.full((450, 450), 255), NAMES, distinct_colors(2))
    assert sheet.width == 2 * 450 + 3 * MARGIN


def test_panels_of_different_heights_are_refused():
    with pytest.raises(ValueError, match="height"):
        compose_panels([Panel("a", np.zeros((2, 2, 3), np.uint8)), Panel("b", np.zeros((3, 2, 3), np.uint8))])
    with pytest.raises(ValueError, match="height"):
        compose_panels([])
