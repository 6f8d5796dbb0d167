"""Prompt learners from a config, and where their class names come from."""

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mta_clip.config import get_cfg
from mta_clip.modeling.text import (
    PROMPT_LEARNERS,
    ContextPromptLearner,
    TemplatePrompt,
    build_prompt_learner,
    class_names_from_config,
)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.CLIP.NAME = "mta-tiny"
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.PROMPT.CLASS_NAMES = ["sky", "road"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    return cfg


def test_context_prompts(cfg):
    cfg.MODEL.PROMPT.NUM_CONTEXTS = 5
    cfg.MODEL.PROMPT.CONTEXT_LENGTH = 4
    cfg.MODEL.PROMPT.NO_OBJECT_NAME = "nothing"
    learner = build_prompt_learner(cfg)
    assert type(learner) is ContextPromptLearner
    assert learner.contexts.shape == (5, 4, 128)
    assert learner.no_object_name == "nothing"
    assert learner().shape == (5, 3, 128)


def test_template_prompts(cfg):
    cfg.MODEL.PROMPT.NAME = "TemplatePrompt"
    cfg.MODEL.PROMPT.TEMPLATES = ["a {}.", "the {}."]
    learner = build_prompt_learner(cfg)
    assert type(learner) is TemplatePrompt
    assert learner.templates == ["a {}.", "the {}."]


def test_no_text(cfg):
    cfg.MODEL.PROMPT.NAME = ""
    assert build_prompt_learner(cfg) is None


def test_unknown_learner_lists_the_known(cfg):
    cfg.MODEL.PROMPT.NAME = "Contexts"
    with pytest.raises(
        ValueError, match="no prompt learner 'Contexts'; there are ContextPromptLearner, TemplatePrompt"
    ):
        build_prompt_learner(cfg)
    assert "ContextPromptLearner" in PROMPT_LEARNERS


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
    with pytest.raises(ValueError, match=r"CLASS_NAMES: 2 class names, but MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 3"):
        build_prompt_learner(cfg)
    cfg.MODEL.PROMPT.CLASS_NAMES = []
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="class names are needed"):
        build_prompt_learner(cfg)
    cfg.DATASETS.TRAIN = ("prompt_test_without_names",)
    with pytest.raises(ValueError, match=r"'prompt_test_without_names' has no `stuff_classes`"):
        build_prompt_learner(cfg)
    MetadataCatalog.pop("prompt_test_without_names", None)
