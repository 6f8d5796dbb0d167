import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mta_clip.evaluation.predictions import LabelMapWriter, RunLengthWriter, image_ids


def test_label_maps_keep_their_folders(tmp_path):
    images = ["/data/a/1.jpg", "/data/b/1.jpg"]
    writer = LabelMapWriter(folder=tmp_path, images=images)
    for value, image in enumerate(images):
        writer.write(image, np.full((3, 4), value))
    assert (np.array(Image.open(tmp_path / "a" / "1.png")) == 0).all()
    assert (np.array(Image.open(tmp_path / "b" / "1.png")) == 1).all()


@pytest.mark.parametrize("dataset_ids", [None, {0: 92, 2: 94}])
def test_run_lengths_are_results_that_coco_tools_take(tmp_path, dataset_ids):
    predictions = {"val/b.jpg": np.random.default_rng(0).integers(0, 3, (17, 23)), "val/a.jpg": np.full((4, 5), 1)}
    path = tmp_path / "predictions.json"
    writer = RunLengthWriter(path=path, images=list(predictions), class_names=["x", "y", "z"], dataset_ids=dataset_ids)
    for image, labels in predictions.items():
        writer.write(image, labels)
    writer.finish()
    ids = [(dataset_ids or {}).get(label, label) for label in range(3)]
    dataset = COCO(tmp_path / "predictions_images.json")
    results = dataset.loadRes(str(path))
    assert [category["name"] for category in dataset.loadCats(ids)] == ["x", "y", "z"]
    for number, (image, labels) in enumerate(predictions.items(), start=1):
        assert dataset.loadImgs(number)[0] == dict(zip(("height", "width"), labels.shape, strict=True)) | {
            "id": number,
            "file_name": image,
        }
        segments = results.loadAnns(results.getAnnIds(imgIds=[number]))
        assert len(segments) == len(np.unique(labels))
        for segment in segments:
            mask = results.annToMask(segment).astype(bool)
            assert np.array_equal(mask, labels == ids.index(segment["category_id"]))
            assert segment["score"] == 1 and segment["area"] == mask.sum() and segment["file_name"] == image


def test_results_can_be_evaluated_against_annotations(tmp_path):
    """COCOeval finds that a prediction agrees with itself."""
    writer = RunLengthWriter(path=tmp_path / "r.json", images=["1.jpg", "7.jpg"], class_names=["x", "y"])
    writer.write("7.jpg", np.arange(600).reshape(20, 30) // 300)
    writer.finish()
    dataset = json.loads((tmp_path / "r_images.json").read_text())
    results = json.loads((tmp_path / "r.json").read_text())
    for number, segment in enumerate(results, start=1):
        dataset["annotations"].append(segment | {"id": number, "iscrowd": 0, "area": 300})
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    truth = COCO(tmp_path / "truth.json")
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "r.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_ids_of_images():
    assert list(image_ids(["val2017/000000000139.jpg", "000000000285.jpg"]).values()) == [139, 285]
    assert list(image_ids(["a/1.jpg", "b/1.jpg"]).values()) == [1, 2]
    assert list(image_ids(["x.jpg", "7.jpg"]).values()) == [1, 2]
    assert image_ids([]) == {}
