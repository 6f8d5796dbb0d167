import numpy as np
import pytest

from mta_clip.visualization import class_colors, distinct_colors


@pytest.mark.parametrize("count", [0, 1, 2, 11, 171, 847])
def test_colors_are_distinct_and_the_same_every_time(count):
    colors = distinct_colors(count)
    assert colors.shape == (count, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == count
    assert np.array_equal(colors, distinct_colors(count))


def test_more_classes_leave_earlier_colors_as_they_are():
    assert np.array_equal(distinct_colors(150)[:20], distinct_colors(20))


def test_colors_keep_away_from_those_in_use():
    in_use = [(128, 64, 128), (128, 128, 0), *distinct_colors(3)]
    colors = distinct_colors(15, apart_from=in_use).astype(int)
    assert np.linalg.norm(colors[:, None] - np.array(in_use, int), axis=-1).min() > 40
    assert np.array_equal(distinct_colors(15, apart_from=distinct_colors(5)), distinct_colors(20)[5:])


def test_first_colors_are_far_apart():
    colors = distinct_colors(20).astype(int)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[np.triu_indices(20, k=1)]
    assert distances.min() > 40


def test_any_number_of_colors():
    assert distinct_colors(20_000).shape == (20_000, 3)
    with pytest.raises(ValueError, match="negative"):
        distinct_colors(-1)


def test_dataset_colors_come_first():
    given = [(1, 2, 3), (4, 5, 6)]
    assert class_colors(2, given).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.array_equal(class_colors(2, None), distinct_colors(2))
    assert np.array_equal(class_colors(2, []), distinct_colors(2))


@pytest.mark.parametrize("given", [[(1, 2, 3)], [(1, 2, 3), (4, 5, 256)], [(1, 2), (3, 4)]])
def test_wrong_dataset_colors_are_refused(given):
    with pytest.raises(ValueError, match="stuff_colors"):
        class_colors(2, given)
