import io
import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from saved_models import mta_clip_config, segmenter

from mta_clip.serving.answers import encode


@pytest.fixture(scope="module")
def result():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return segmenter(mta_clip_config())(pixels)


def test_png(result):
    content, media_type = encode(result, "png")
    picture = Image.open(io.BytesIO(content))
    assert media_type == "image/png" and np.array_equal(picture, result.labels)
    assert np.array_equal(picture.convert("RGB"), result.colors[result.labels])


def test_json(result):
    content, media_type = encode(result, "json")
    found = json.loads(content)
    assert media_type == "application/json" and found["images"][0]["width"] == 40
    assert [category["name"] for category in found["categories"]] == list(result.class_names)
    assert sum(annotation["share"] for annotation in found["annotations"]) == pytest.approx(1)
    for annotation in found["annotations"]:
        mask = result.labels == annotation["category_id"]
        assert np.array_equal(pycocotools.mask.decode(annotation["segmentation"]), mask)
        assert annotation["share"] == pytest.approx(mask.mean())
        assert annotation["score"] == pytest.approx(result.confidence[mask].mean())
