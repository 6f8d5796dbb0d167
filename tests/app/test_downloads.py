import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from mta_clip.app.downloads import write_downloads, write_overlay


def test_files_are_what_the_result_says(toy, photo, tmp_path):
    result = toy(photo)
    labels, overlay, coco = write_downloads(result, tmp_path / "out")
    assert [path.name for path in (labels, overlay, coco)] == [
        "street_labels.png",
        "street_overlay.png",
        "street_coco.json",
    ]
    assert np.array_equal(np.array(Image.open(labels)), result.labels)
    assert np.array_equal(np.array(Image.open(overlay)), np.array(result.overlay()))
    assert json.loads(coco.read_text()) == json.loads(json.dumps(result.to_coco()))


def test_hidden_classes_are_not_painted(toy, photo, tmp_path):
    result = toy(photo)
    picture = np.array(Image.open(write_overlay(result, tmp_path, alpha=1, hidden=[1])))
    assert (picture[:, 15:] == result.image[:, 15:]).all() and (picture[:, :8] == result.colors[0]).all()
    with pytest.raises(ValueError, match="alpha"):
        write_overlay(result, tmp_path, alpha=2)


def test_an_image_without_a_file(toy, photo, tmp_path):
    assert write_overlay(dataclasses.replace(toy(photo), path=None), tmp_path).name == "image_overlay.png"
