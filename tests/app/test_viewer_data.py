import base64
import io

import numpy as np
from PIL import Image

from mta_clip.app.viewer_data import data_uri, viewer_data


def decoded(uri):
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_labels_confidence_and_legend(toy, photo):
    result = toy(photo, scores=False)
    data = viewer_data(result)
    coded = decoded(data["labels"]).astype(int)
    assert coded.shape == (420, 560, 3)  # small images are enlarged
    labels = coded[..., 0] + 256 * coded[..., 1]
    assert np.array_equal(labels[7::14, 7::14], result.labels)
    np.testing.assert_allclose(coded[7::14, 7::14, 2] / 255, result.confidence, atol=0.3)
    assert coded[5, -5, 2] == round(255 * result.confidence[0, -1])
    assert decoded(data["image"]).shape == (420, 560, 3)
    assert [(x["name"], x["share"], x["index"]) for x in data["classes"]] == [
        ("bright thing", 0.75, 1),
        ("dark thing", 0.25, 0),
    ]
    trusty = decoded(data["trusty_values"])
    assert trusty[5, -5] == round(255 * result.trusty[0, -1]) and decoded(data["trusty"]).shape == (420, 560, 3)


def test_many_classes_and_no_trusty_map(mta, photo):
    names = [f"name {index}" for index in range(300)]
    result = mta(photo, names, scores=False)
    data = viewer_data(result)
    coded = decoded(data["labels"]).astype(int)
    found = set(np.unique(coded[..., 0] + 256 * coded[..., 1]).tolist())
    assert found == set(np.unique(result.labels).tolist()) == {x["index"] for x in data["classes"]}
    assert "trusty" not in data


def test_uris():
    assert data_uri(np.zeros((2, 2), np.uint8)).startswith("data:image/png;base64,")
    assert decoded(data_uri(np.full((8, 8, 3), 77, np.uint8), "JPEG")).max() <= 79
