import io
import json
import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mta_clip.api.result import Segmentation

NAMES = ("sky", "road", "tree")
COLORS = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8)


def make(scores, /, **options) -> Segmentation:
    """A result with these scores (C, H, W)."""
    scores = np.asarray(scores, np.float32)
    fields = {
        "image": np.full((*scores.shape[1:], 3), 100, np.uint8),
        "labels": scores.argmax(0),
        "class_names": NAMES[: len(scores)],
        "colors": COLORS[: len(scores)],
        "confidence": scores.max(0).clip(0, 1),
        "scores": scores,
    }
    return Segmentation(**fields | options)


def of_labels(labels, **options) -> Segmentation:
    return make(np.eye(3)[np.asarray(labels)].transpose(2, 0, 1), **options)


@pytest.fixture
def ring():
    """A road with a square hole of sky in it, two single pixels of tree, and sky around all."""
    labels = np.zeros((12, 16), int)
    labels[2:10, 3:12] = 1
    labels[4:8, 5:9] = 0
    labels[0, 0] = labels[11, 14] = 2
    return of_labels(labels)


def test_probabilities_are_shares_of_the_positive_scores():
    # of a pixel of MTA-CLIP; of TagCLIP with a negative score; without any positive score; too small to divide by
    result = make(np.array([[0.6, 1.2, 0.2], [0.3, -0.1, 0.1], [-0.1, -0.05, -0.1], [1e-42, 0, 0]]).T[:, None])
    expected = [[0.3, 0.6, 0.1], [0.75, 0, 0.25], [1 / 3] * 3, [1 / 3] * 3]
    np.testing.assert_allclose(result.probabilities[:, 0].T, expected, atol=1e-6)
    assert result.scores[1, 0, 1] < 0  # left as they were
    rng = np.random.default_rng(0)
    result = make(rng.random((3, 20, 20)))
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-6)
    assert np.array_equal(result.probabilities.argmax(0), result.labels)


def test_probabilities_need_scores():
    with pytest.raises(ValueError, match="scores=True"):
        _ = make(np.ones((2, 3, 3)), scores=None).probabilities


def test_rejected_pixels_get_a_new_class():
    result = make([[[0.8, 0.1, 0.3]], [[0.1, 0.2, 0.2]]])
    rejected = result.reject("background", threshold=0.3)
    assert rejected.labels.tolist() == [[0, 2, 0]]  # at the threshold is not below it
    assert rejected.class_names == ("sky", "road", "background")
    assert rejected.colors.tolist() == [*COLORS[:2].tolist(), [192] * 3] and rejected.other == "background"
    assert np.array_equal(rejected.confidence, result.confidence)
    np.testing.assert_allclose(rejected.probabilities[:, 0, 1], np.array([0.1, 0.2, 0.3]) / 0.6, atol=1e-6)
    np.testing.assert_allclose(rejected.probabilities.sum(0), 1, atol=1e-6)
    assert np.array_equal(rejected.probabilities.argmax(0), rejected.labels)
    assert result.labels.tolist() == [[0, 1, 0]] and len(result.class_names) == 2


@pytest.mark.parametrize("grey", range(0, 256, 15))
def test_the_colour_of_rejected_pixels_is_of_no_class(grey):
    result = make(np.ones((2, 3, 3)), colors=np.array([[grey] * 3, [255, 255, 255]], np.uint8))
    own, *others = result.reject(threshold=0.5).colors[::-1].astype(int)
    assert min(np.linalg.norm(own - other) for other in others) > 90


def test_a_single_name_can_be_rejected():
    result = make([[[0.8, 0.1]]])
    assert result.probabilities.tolist() == [[[1, 1]]]
    assert result.reject(threshold=0.5).masks()["sky"].tolist() == [[True, False]]


@pytest.mark.parametrize("scores", [True, False])
def test_rejected_pixels_can_get_a_class_of_the_model(scores):
    result = make([[[0.8, 0.1, 0.2]], [[0.1, 0.2, 0.1]]])
    if not scores:
        result = make(result.scores, scores=None)
    rejected = result.reject("sky", threshold=0.4)
    assert rejected.labels.tolist() == [[0, 0, 0]] and rejected.class_names == ("sky", "road")
    assert rejected.other is None
    if scores:
        assert np.array_equal(rejected.probabilities.argmax(0), rejected.labels)


@pytest.mark.parametrize("threshold", [-0.1, 30, float("nan")])
def test_thresholds_are_shares(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make(np.ones((2, 3, 3))).reject("x", threshold=threshold)


def test_masks_of_what_is_there(ring):
    masks = of_labels([[0, 2], [2, 2]]).masks()
    assert list(masks) == ["sky", "tree"]
    assert masks["tree"].dtype == bool and masks["tree"].tolist() == [[False, True], [True, True]]


def test_polygons_have_holes_and_give_the_masks_back(ring):
    polygons = ring.polygons()
    assert list(polygons) == ["sky", "road", "tree"]
    ((outline, _hole),) = polygons["road"]
    assert outline.min(0).tolist() == [3, 2] and outline.max(0).tolist() == [11, 9]  # x, y
    assert len(polygons["sky"]) == 2 and polygons["tree"] == []  # single pixels have no outline
    for name in ("sky", "road"):
        drawn = np.zeros((12, 16), np.uint8)
        for rings in polygons[name]:
            cv2.fillPoly(drawn, rings, 1)
        expected = ring.masks()[name]
        assert np.array_equal(drawn.astype(bool), expected)


def test_coco_files_are_read_by_its_tools(ring, tmp_path, capsys):
    (tmp_path / "coco.json").write_text(json.dumps(ring.to_coco(image_id=7)))
    coco = COCO(tmp_path / "coco.json")
    assert coco.imgs[7]["height"] == 12 and [entry["name"] for entry in coco.loadCats([0, 1, 2])] == list(NAMES)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[7])):
        mask = ring.masks()[NAMES[annotation["category_id"]]]
        assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum() and annotation["score"] == 1
    (road,) = coco.loadAnns(coco.getAnnIds(catIds=[1]))
    assert road["bbox"] == [3, 2, 9, 8]
    results = coco.loadRes(ring.to_coco(image_id=7)["annotations"])  # what evaluation takes
    assert len(results.anns) == 3


def test_coco_categories_may_have_other_ids(ring):
    ids = {"sky": 11, "road": 12, "tree": 13}
    assert [entry["category_id"] for entry in ring.to_coco(category_ids=ids)["annotations"]] == [11, 12, 13]
    with pytest.raises(KeyError, match="tree"):
        ring.to_coco(category_ids={"sky": 1, "road": 2})


def test_supervision_gets_a_detection_per_class(ring):
    supervision = pytest.importorskip("supervision")
    detections = ring.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 3
    assert detections.xyxy[1].tolist() == [3, 2, 11, 9]
    _check_detections(detections, ring)


def test_what_supervision_is_given(ring, monkeypatch):
    stand_in = types.SimpleNamespace(
        Detections=types.SimpleNamespace, mask_to_xyxy=lambda masks: np.zeros((len(masks), 4))
    )
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    _check_detections(ring.to_supervision(), ring)


def _check_detections(detections, result):
    assert detections.class_id.tolist() == [0, 1, 2] and detections.confidence.tolist() == [1, 1, 1]
    assert detections.data["class_name"].tolist() == list(NAMES)
    assert np.array_equal(detections.mask, np.stack(list(result.masks().values())))
    assert detections.xyxy.shape == (3, 4)


def test_without_supervision_the_error_names_it(ring, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match=r"mta-clip\[supervision\]"):
        ring.to_supervision()


def test_pictures(ring):
    overlay = np.array(ring.overlay(alpha=1, contours=False))
    assert np.array_equal(overlay, COLORS[ring.labels])
    assert np.array(ring.overlay()).shape == (12, 16, 3)
    panel = ring.panel()
    shown = Image.open(io.BytesIO(ring._repr_png_()))
    assert panel.width > 2 * panel.height * 16 / 12 and shown.size == panel.size
    trusty = of_labels(ring.labels, trusty=np.zeros((12, 16), np.float32), unseen_classes=("tree",))
    assert trusty.panel().width > panel.width + 420


def test_text(ring):
    assert repr(of_labels([[0, 0], [0, 2]])) == "<Segmentation of 2x2 pixels: sky 75.0 %, tree 25.0 %>"
    many = np.eye(7)[None]
    many = make(many.transpose(2, 0, 1), class_names=tuple("abcdefg"), colors=np.zeros((7, 3), np.uint8))
    assert repr(many).endswith(", 2 more>")
