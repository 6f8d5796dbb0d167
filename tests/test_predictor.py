import numpy as np
import pytest
from toy_predictor import NAMES, BrightnessSegmentor, make_config

from mta_clip.config_loader import load_config
from mta_clip.predictor import SegmentationPredictor
from mta_clip.visualization import distinct_colors


@pytest.fixture
def image():
    picture = np.full((30, 50, 3), 20, np.uint8)
    picture[:, 25:] = 220
    return picture


@pytest.fixture
def cfg(tmp_path):
    config_file, weights = make_config(tmp_path)
    return load_config(config_file, ["MODEL.WEIGHTS", weights])


def test_predicts_at_the_size_of_the_image(cfg, image):
    prediction = SegmentationPredictor(cfg).predict(image)
    assert np.array_equal(prediction.labels, (image[..., 0] > 100).astype(int))
    assert prediction.scores.shape == (2, 30, 50)
    assert prediction.trusty.shape == (30, 50)


def test_resizes_as_the_config_says(cfg, image):
    predictor = SegmentationPredictor(cfg)
    predictor.predict(image)
    predictor.predict(image[:, :2])
    assert predictor.model.seen_sizes == [(16, 27), (64, 4)]


@pytest.mark.parametrize("shape", [(3, 2000, 3), (1, 5000, 3)])
def test_narrow_images(cfg, shape):
    cfg.INPUT.MAX_SIZE_TEST = 300
    for windows in (False, True):
        cfg.TEST.SLIDING_WINDOW.ENABLED = windows
        assert SegmentationPredictor(cfg).predict(np.zeros(shape, np.uint8)).labels.shape == shape[:2]


def test_models_that_only_give_labels(cfg, image):
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = True
    prediction = SegmentationPredictor(cfg).predict(image)
    assert prediction.scores is None and prediction.labels.shape == (30, 50)


@pytest.mark.parametrize("label_maps_only", [False, True])
def test_augmentation_resizes_the_image_itself(cfg, image, label_maps_only):
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = True, (15, 60), 1000
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = label_maps_only
    predictor = SegmentationPredictor(cfg)
    prediction = predictor.predict(image)
    assert predictor.model.model.seen_sizes == [(15, 25)] * 2 + [(60, 100)] * 2
    assert np.array_equal(prediction.labels, (image[..., 0] > 100).astype(int))
    assert (prediction.scores is None) == label_maps_only and prediction.trusty.shape == (30, 50)
    predictor.set_vocabulary(["a cat", "a dog", "a cow"])
    assert predictor.model.model.vocabulary == ["a cat", "a dog", "a cow"]


def test_channel_order(image):
    class FirstChannel(BrightnessSegmentor):
        def predict(self, images):
            self.first = images.tensor[0, 0].mean().item()
            return super().predict(images)

    image[..., 2] = 255
    for image_format, expected in (("RGB", image[..., 0].mean()), ("BGR", 255)):
        predictor = SegmentationPredictor(
            model=FirstChannel(), class_names=NAMES, image_format=image_format, min_size=0
        )
        predictor.predict(image)
        assert predictor.model.first == pytest.approx(expected)


def test_vocabulary_sets_names_colors_and_seen_classes(cfg, image):
    predictor = SegmentationPredictor(cfg)
    assert predictor.unseen_classes == ()
    predictor.set_vocabulary(["bright thing", "a cat", "a dog"])
    assert predictor.model.vocabulary == ["bright thing", "a cat", "a dog"]
    assert predictor.unseen_classes == ("a cat", "a dog")
    assert np.array_equal(predictor.colors[0], distinct_colors(2)[1])  # as in the model's own classes
    assert len(np.unique(predictor.colors, axis=0)) == 3
    assert predictor.predict(image).scores.shape[0] == 3
    predictor.set_vocabulary(None)
    assert list(predictor.class_names) == NAMES and predictor.model.vocabulary is None


def test_held_out_classes_are_unseen(cfg):
    cfg.DATASETS.UNSEEN_CLASSES = ["bright thing"]
    predictor = SegmentationPredictor(cfg)
    assert predictor.unseen_classes == ("bright thing",)
    predictor.set_vocabulary(["BRIGHT thing", "shade; Dark thing", "a cat"])
    assert predictor.unseen_classes == ("BRIGHT thing", "a cat")


def test_draws_input_prediction_and_trusty_map(cfg, image):
    predictor = SegmentationPredictor(cfg)
    prediction = predictor.predict(image)
    assert predictor.draw(image, prediction).width > 3 * 700  # three pictures of 420 x 700


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_wrong_images_are_refused(cfg, bad):
    with pytest.raises(ValueError, match="uint8"):
        SegmentationPredictor(cfg).predict(bad)


def test_weights_are_required(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS"):
        SegmentationPredictor(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        SegmentationPredictor(cfg)
