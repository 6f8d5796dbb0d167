"""Text: class names, prompts, their cached features, the vocabulary for inference, and the temperature."""

from detectron2.config import CfgNode

from .class_names import class_names_from_config, clean_class_names
from .context import ContextPromptLearner
from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS
from .template import TemplatePrompt

__all__ = [
    "PROMPT_LEARNERS",
    "ContextPromptLearner",
    "PromptLearner",
    "TemplatePrompt",
    "build_prompt_learner",
    "class_names_from_config",
    "clean_class_names",
]


def build_prompt_learner(cfg: CfgNode) -> PromptLearner | None:
    """The prompt learner MODEL.PROMPT.NAME with the text tower of MODEL.CLIP, or None if the name is "".

    Raises:
        ValueError: unknown prompt learner; see also `CLIPTextEncoder` and `class_names_from_config`.
    """
    name = cfg.MODEL.PROMPT.NAME
    if not name:
        return None
    if name not in PROMPT_LEARNERS:
        known = ", ".join(sorted(key for key, _ in PROMPT_LEARNERS))
        raise ValueError(
            f"MODEL.PROMPT.NAME: no prompt learner {name!r}; there are {known}; set '' for a model without text"
        )
    return PROMPT_LEARNERS.get(name)(cfg)
