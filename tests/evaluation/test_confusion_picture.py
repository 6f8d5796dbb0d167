import numpy as np
import pytest
from PIL import Image

from mta_clip.evaluation import confusion_picture
from mta_clip.evaluation.confusion_picture import draw_confusion


@pytest.mark.parametrize("count", [1, 11, 60])
def test_draws_any_number_of_classes(tmp_path, count):
    confusion = np.diag(np.arange(count) * 100)
    confusion[0, -1] += 3
    draw_confusion(tmp_path / "c.png", confusion, [f"class {i}" for i in range(count)])
    with Image.open(tmp_path / "c.png") as picture:
        pixels = np.array(picture.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 400
    # the diagonal is the only strong blue: every class with pixels adds to it
    blue = (pixels[..., 2] - pixels[..., 0] > 60).sum()
    assert blue > 200 * max(count - 1, 0)


@pytest.mark.parametrize("count", [7, 8])
def test_many_classes_have_no_names_and_no_larger_picture(tmp_path, monkeypatch, count):
    monkeypatch.setattr(confusion_picture, "NAMED", 7)
    monkeypatch.setattr(confusion_picture, "WRITTEN_OUT", 4)
    named = []
    monkeypatch.setattr(confusion_picture.Axes, "set_yticks", lambda axes, ticks, names=(), **_: named.extend(names))
    draw_confusion(tmp_path / "c.png", np.eye(count, dtype=np.int64), [f"class {i}; {'x' * 500}" for i in range(count)])
    assert named == ([f"class {i}" for i in range(7)] if count == 7 else [])
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 1200


def test_an_empty_matrix_is_drawn_too(tmp_path):
    draw_confusion(tmp_path / "c.png", np.zeros((3, 3), np.int64), ["a", "b", "c"])
    assert (tmp_path / "c.png").is_file()
