import numpy as np
import pytest

from mta_clip.visualization import LegendEntry, distinct_colors, draw_legend, legend_entries
from mta_clip.visualization.legend import MAX_COLUMNS

NAMES = ("sky", "road", "cat")


def test_only_present_classes_largest_first_with_shares():
    labels = np.array([[1, 1, 1, 0], [255, 255, 255, 255]])
    entries = legend_entries(labels, NAMES, distinct_colors(3))
    assert [(entry.name, entry.share, entry.mark) for entry in entries] == [("road", 0.75, ""), ("sky", 0.25, "")]
    assert entries[0].color == tuple(distinct_colors(3)[1])


def test_seen_and_unseen_marks():
    entries = legend_entries(np.array([[0, 2, 2]]), NAMES, distinct_colors(3), unseen={"cat"})
    assert [(entry.name, entry.mark) for entry in entries] == [("cat", "unseen"), ("sky", "seen")]


def test_other_pixels_are_neither_seen_nor_unseen():
    entries = legend_entries(np.array([[0, 1, 2]]), NAMES, distinct_colors(3), unseen={"cat"}, other="road")
    assert {entry.name: entry.mark for entry in entries} == {"sky": "seen", "road": "", "cat": "unseen"}


def test_no_labelled_pixel_gives_no_entries():
    assert legend_entries(np.full((2, 2), 255), NAMES, distinct_colors(3)) == []


@pytest.mark.parametrize("count", [1, 11, 171])
def test_long_lists_stay_on_the_sheet(count):
    entries = [LegendEntry(f"class {i}", (255, 0, 0), 1 / count) for i in range(count)]
    legend = draw_legend(entries, height=300)
    pixels = np.array(legend)
    swatch_pixels = (pixels == (255, 0, 0)).all(-1).sum()
    one = (np.array(draw_legend(entries[:1], height=300)) == (255, 0, 0)).all(-1).sum()
    assert swatch_pixels == count * one  # every swatch is drawn in full
    assert legend.width < 250 * MAX_COLUMNS


def test_very_long_names_are_shortened():
    wide = draw_legend([LegendEntry("x" * 500, (0, 0, 0), 1.0)], height=100).width
    assert wide < 600
