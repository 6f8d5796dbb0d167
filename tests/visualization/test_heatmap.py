import numpy as np
import pytest

from mta_clip.visualization import draw_heatmap


def test_bright_is_one_and_dark_is_zero():
    picture = draw_heatmap(np.array([[0.0, 0.5, 1.0]]), scale=False).astype(int).sum(-1)
    assert picture[0, 0] < picture[0, 1] < picture[0, 2]


def test_scale_takes_only_the_bottom():
    values = np.full((100, 80), 0.25)
    plain, scaled = draw_heatmap(values, scale=False), draw_heatmap(values)
    assert np.array_equal(plain[:90], scaled[:90])
    assert not np.array_equal(plain[-1], scaled[-1])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_outside_the_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        draw_heatmap(np.array([[0.5, bad]]))
