import numpy as np
import pytest
from PIL import Image

from mta_clip.visualization import distinct_colors, save_label_map


def test_values_survive_and_show_their_colors(tmp_path):
    labels = np.array([[0, 1, 255], [2, 1, 0]])
    colors = distinct_colors(3)
    save_label_map(labels, tmp_path / "new" / "a.png", colors)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), labels)
        rgb = np.array(picture.convert("RGB"))
    assert np.array_equal(rgb[1, 0], colors[2]) and not rgb[0, 2].any()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]  # no partial file is left


def test_more_than_256_classes(tmp_path):
    labels = np.array([[0, 846], [300, 65535]])
    save_label_map(labels, tmp_path / "a.png", distinct_colors(847))
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), labels)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png.*-1"):
        save_label_map(np.array([[-1]]), tmp_path / "a.png")
