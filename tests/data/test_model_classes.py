import pytest
from detectron2.data import MetadataCatalog

from mta_clip.config import get_cfg
from mta_clip.data import has_other_classes, unseen_classes, with_classes, with_classes_of
from mta_clip.data.model_classes import CLASS_KEYS

NAME = "dataset_of_model_classes"


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (NAME, "another")
    metadata = MetadataCatalog.get(NAME)
    metadata.set(stuff_classes=["wall", "bed"], stuff_colors=[[1, 2, 3], [4, 5, 6]], ignore_label=7)
    yield cfg
    MetadataCatalog.pop(NAME)


def classes(cfg):
    return cfg.MODEL.PROMPT.CLASS_NAMES, cfg.MODEL.CLASS_COLORS, *_head(cfg)


def _head(cfg):
    return cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE


def test_empty_keys_come_from_the_first_training_dataset(cfg):
    cfg.freeze()
    filled = with_classes(cfg)
    assert classes(filled) == (["wall", "bed"], [[1, 2, 3], [4, 5, 6]], 2, 7)
    assert filled.is_frozen() and classes(cfg) == ([], [], 150, 255)


def test_keys_of_the_config_win(cfg):
    cfg.MODEL.PROMPT.CLASS_NAMES = ["a", "b", "c"]
    assert classes(with_classes(cfg)) == (["a", "b", "c"], [], 3, 7)  # colours belong to other names
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 9, 0
    cfg.MODEL.CLASS_COLORS = [[0, 0, 0]]
    assert classes(with_classes(cfg)) == (["a", "b", "c"], [[0, 0, 0]], 9, 0)


@pytest.mark.parametrize("train", [(), ("dataset that nobody knows",)])
def test_unknown_classes_stay_empty(train):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = train
    assert classes(with_classes(cfg)) == ([], [], 150, 255)


def test_all_that_is_about_classes_can_be_copied(cfg):
    trained = with_classes(cfg)
    trained.DATASETS.UNSEEN_CLASSES = ["bed"]
    copy = with_classes_of(get_cfg(), trained)
    assert classes(copy) == classes(trained) and copy.DATASETS.UNSEEN_CLASSES == ["bed"]
    assert len(CLASS_KEYS) == len({*CLASS_KEYS}) == 5
    assert copy.DATASETS.TRAIN == ()


class TestClassesOfOtherDatasets:
    def test_the_names_of_the_model_and_of_its_training_dataset_are_its_own(self, cfg):
        cfg.MODEL.PROMPT.CLASS_NAMES = ["a wall", "a bed"]
        assert not has_other_classes(cfg, ["wall", "bed"]) and not has_other_classes(cfg, ("a wall", "a bed"))
        assert has_other_classes(cfg, ["bed", "wall"]) and has_other_classes(cfg, ["wall"])
        cfg.DATASETS.TRAIN, cfg.MODEL.PROMPT.CLASS_NAMES = (), []
        assert not has_other_classes(cfg, ["sky"])  # nothing is known of the model

    def test_own_classes_are_unseen_as_the_config_says(self, cfg):
        cfg.DATASETS.UNSEEN_CLASSES = ["bed"]
        assert unseen_classes(cfg, ["wall", "bed"]) == ["bed"]
        cfg.MODEL.PROMPT.CLASS_NAMES, cfg.DATASETS.UNSEEN_CLASSES = ["wall", "something"], ["something"]
        assert unseen_classes(cfg, ["wall", "something"]) == ["something"]
        assert unseen_classes(cfg, ["wall", "bed"]) == ["bed"]  # as the dataset calls it

    def test_other_classes_are_unseen_unless_trained_under_any_of_their_names(self, cfg):
        assert unseen_classes(cfg, ["Bed;couch", "sky", "walls", "wall"]) == ["sky", "walls"]
        cfg.MODEL.PROMPT.CLASS_NAMES, cfg.DATASETS.UNSEEN_CLASSES = ["brick wall", "a bed"], ["bed"]
        assert unseen_classes(cfg, ["a bed", "bed", "brick wall", "wall"]) == ["a bed", "bed"]
