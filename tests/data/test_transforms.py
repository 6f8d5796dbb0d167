import numpy as np
import pytest
from detectron2.data import transforms as T

from mta_clip.data.transforms import ResizeShortestEdge


@pytest.mark.parametrize("shape", [(3, 2000, 3), (2000, 3, 3), (1, 5000, 3), (1, 1, 3)])
def test_narrow_images_keep_a_pixel(shape):
    resized = ResizeShortestEdge(96, 100).get_transform(np.zeros(shape)).apply_image(np.zeros(shape, np.uint8))
    assert min(resized.shape[:2]) >= 1 and max(resized.shape[:2]) <= 100


@pytest.mark.parametrize("size", [0, 30, 200])
def test_others_are_resized_as_detectron2_does(size):
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    ours, theirs = (kind(size, 150).get_transform(image) for kind in (ResizeShortestEdge, T.ResizeShortestEdge))
    np.testing.assert_array_equal(ours.apply_image(image), theirs.apply_image(image))
