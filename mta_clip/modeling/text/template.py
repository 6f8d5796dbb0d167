"""Hand-written templates such as "a photo of a {}."; nothing is learned.

Shapes: Z templates.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS


@PROMPT_LEARNERS.register()
class TemplatePrompt(PromptLearner):
    """Class names in Z fixed templates.

    Args:
        templates: Z texts with one `{}` each, where the name goes.
        common: arguments of PromptLearner.

    Raises:
        ValueError: there are no templates, one does not contain exactly one `{}`, or a prompt is too long for the text
            tower; see also `PromptLearner`.
    """

    learned = False

    @configurable
    def __init__(self, *, templates: Sequence[str] = ("a photo of a {}.",), **common: Any):
        super().__init__(**common)
        self.templates = list(templates)
        for prompts in fill_templates([*self.class_names, self.no_object_name], self.templates):
            self.text_encoder.tokenize(prompts)  # fails here, not at the first image, if a name is too long

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See PromptLearner."""
        return {**super().from_config(cfg), "templates": cfg.MODEL.PROMPT.TEMPLATES}

    @property
    def num_contexts(self) -> int:
        """Z."""
        return len(self.templates)

    def encode_names(self, names: list[str]) -> Tensor:
        """See PromptLearner."""
        prompts = fill_templates(names, self.templates)
        return torch.cat([self.text_encoder(self.text_encoder.tokenize(texts)) for texts in prompts])


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """For each template, the prompts of all names.

    Raises:
        ValueError: there are no templates, or one does not contain exactly one `{}`.
    """
    if not templates:
        raise ValueError("no templates given: MODEL.PROMPT.TEMPLATES needs at least one, e.g. 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must contain {{}} once, where the class name goes")
    return [[template.replace("{}", name) for name in names] for template in templates]
