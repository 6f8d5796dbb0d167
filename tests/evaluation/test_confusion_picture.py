import numpy as np
import pytest
from PIL import Image

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


def test_an_empty_matrix_is_drawn_too(tmp_path):
    draw_confusion(tmp_path / "c.png", np.zeros((3, 3), np.int64), ["a", "b", "c"])
    assert (tmp_path / "c.png").is_file()
