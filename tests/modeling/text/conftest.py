"""Small prompt learners, and a config that builds one."""

import pytest
from detectron2.config import CfgNode

from mta_clip.config import get_cfg
from mta_clip.modeling.clip import CLIPTextEncoder
from mta_clip.modeling.text import ContextPromptLearner, PromptLearner, TemplatePrompt

NAMES = ["red disc", "blue ring", "striped green square"]


@pytest.fixture(scope="session")
def text_encoder() -> CLIPTextEncoder:
    return CLIPTextEncoder(name="mta-tiny", quick_gelu=True)


@pytest.fixture
def contexts(text_encoder) -> ContextPromptLearner:
    return ContextPromptLearner(text_encoder=text_encoder, class_names=NAMES, num_contexts=3, context_length=8)


@pytest.fixture
def templates(text_encoder) -> TemplatePrompt:
    return TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, templates=["a photo of a {}.", "one {}"])


@pytest.fixture(params=["contexts", "templates"])
def learner(request) -> PromptLearner:
    return request.getfixturevalue(request.param)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.CLIP.NAME = "mta-tiny"
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.PROMPT.CLASS_NAMES = ["sky", "road"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    return cfg
