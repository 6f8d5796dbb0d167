import numpy as np
import pytest
from PIL import Image

from mta_clip.data.image_files import find_images


@pytest.fixture
def photos(tmp_path):
    """Three images, one of them in a subfolder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        picture = np.full((20, 30, 3), 20, np.uint8)
        picture[:, : 10 + index] = 230
        Image.fromarray(picture).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_files_folders_and_globs(photos):
    inside = [str(photos / name) for name in ("a.png", "b.jpg", "sub/a.png")]
    assert find_images([str(photos)]) == (inside, {})
    assert find_images([str(photos / "*.png"), str(photos)]) == (inside[:1] + inside[1:], {})
    assert find_images([str(photos / "**" / "a.png")])[0] == [inside[0], inside[2]]
    odd = photos / "c[1].png"
    odd.write_bytes((photos / "a.png").read_bytes())
    assert find_images([str(odd)]) == ([str(odd)], {})


def test_inputs_that_lead_nowhere_are_told(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    images, failures = find_images([str(photos / "a.png"), "gone.png", "no*thing", str(tmp_path / "empty")])
    assert images == [str(photos / "a.png")]
    assert set(failures) == {"gone.png", "no*thing", str(tmp_path / "empty")}
