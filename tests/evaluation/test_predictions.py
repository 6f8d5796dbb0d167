import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from mta_clip.evaluation.predictions import LabelMapWriter, RunLengthWriter


def test_label_maps_keep_their_folders(tmp_path):
    images = ["/data/a/1.jpg", "/data/b/1.jpg"]
    writer = LabelMapWriter(folder=tmp_path, images=images)
    for value, image in enumerate(images):
        writer.write(image, np.full((3, 4), value))
    assert (np.array(Image.open(tmp_path / "a" / "1.png")) == 0).all()
    assert (np.array(Image.open(tmp_path / "b" / "1.png")) == 1).all()


@pytest.mark.parametrize("dataset_ids", [None, {0: 92, 2: 94}])
def test_run_lengths_decode_to_the_labels(tmp_path, dataset_ids):
    labels = np.random.default_rng(0).integers(0, 3, (17, 23))
    writer = RunLengthWriter(path=tmp_path / "predictions.json", dataset_ids=dataset_ids)
    writer.write("x.jpg", labels)
    writer.finish()
    segments = json.loads((tmp_path / "predictions.json").read_text())
    assert len(segments) == 3
    ids = dataset_ids or {}
    for segment in segments:
        mask = pycocotools.mask.decode(segment["segmentation"]).astype(bool)
        label = labels[mask][0]
        assert np.array_equal(mask, labels == label)
        assert segment["category_id"] == ids.get(label, label) and segment["file_name"] == "x.jpg"
