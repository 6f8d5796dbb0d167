import logging

import pytest
from detectron2.data import MetadataCatalog

from mta_clip.modeling.text import ContextPromptLearner, build_prompt_learner, class_names_from_config
from mta_clip.modeling.text.class_names import clean_class_names


def test_names_of_the_training_dataset(cfg):
    cfg.MODEL.PROMPT.CLASS_NAMES = []
    cfg.DATASETS.TRAIN = ("prompt_test_dataset", "another")
    MetadataCatalog.get("prompt_test_dataset").stuff_classes = ["wall ", "bed"]
    try:
        assert class_names_from_config(cfg) == ["wall", "bed"]
    finally:
        MetadataCatalog.pop("prompt_test_dataset")


def test_missing_or_miscounted_names(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    with pytest.raises(ValueError, match=r"2 class names .*, but MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 3"):
        build_prompt_learner(cfg)
    cfg.MODEL.PROMPT.CLASS_NAMES = []
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="class names are needed"):
        build_prompt_learner(cfg)
    cfg.DATASETS.TRAIN = ("prompt_test_without_names",)
    with pytest.raises(ValueError, match=r"'prompt_test_without_names' has no `stuff_classes`"):
        build_prompt_learner(cfg)
    MetadataCatalog.pop("prompt_test_without_names", None)


def test_names_are_cleaned_and_repeated_ones_named(caplog):
    with caplog.at_level(logging.WARNING):
        assert clean_class_names([" bed ", "sky", "bed"]) == ["bed", "sky", "bed"]
    assert "more than once" in caplog.text and caplog.text.rstrip().endswith(": bed")


@pytest.mark.parametrize(("names", "message"), [(["sky", "  "], "class name 1 is empty"), ([], "no class names")])
def test_empty_names_are_refused(names, message, text_encoder):
    with pytest.raises(ValueError, match=message):
        clean_class_names(names)
    with pytest.raises(ValueError, match=message):
        ContextPromptLearner(text_encoder=text_encoder, class_names=names)
