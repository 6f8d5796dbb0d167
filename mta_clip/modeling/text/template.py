"""Hand-written templates such as "a photo of a {}."; nothing is learned.

Shapes: Z templates.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..clip.text_encoder import CLIPTextEncoder
from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS


@PROMPT_LEARNERS.register()
class TemplatePrompt(PromptLearner):
    """Class names in Z fixed templates.

    Args:
        text_encoder, class_names, no_object_name: as in `PromptLearner`.
        templates: Z texts with one `{}` each, where the name goes.
        temperature: `temperature` and `learn_temperature` of `PromptLearner`.

    Raises:
        ValueError: there are no templates, one does not contain exactly one `{}`, or a prompt is too long for the text
            tower; see also `PromptLearner`.
    """

    learned = False

    @configurable
    def __init__(
        self,
        *,
        text_encoder: CLIPTextEncoder,
        class_names: Sequence[str],
        no_object_name: str = "none",
        templates: Sequence[str] = ("a photo of a {}.",),
        **temperature: Any,
    ):
        super().__init__(
            text_encoder=text_encoder, class_names=class_names, no_object_name=no_object_name, **temperature
        )
        self.templates = list(templates)
        for prompts in fill_templates([*self.class_names, no_object_name], self.templates):
            text_encoder.tokenize(prompts)  # fails here, not at the first image, if a name is too long

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See PromptLearner."""
        return {
            **super().from_config(cfg),
            "templates": cfg.MODEL.PROMPT.TEMPLATES,
        }

    @property
    def num_contexts(self) -> int:
        """Z."""
        return len(self.templates)

    def encode_names(self, names: list[str]) -> Tensor:
        """See PromptLearner."""
        prompts = fill_templates(names, self.templates)
        return torch.cat([self.text_encoder(self.text_encoder.tokenize(texts)) for texts in prompts])


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Puts names into templates.

    Returns:
        For each template, the prompts of all names.

    Raises:
        ValueError: there are no templates, or one does not contain exactly one `{}`.
    """
    if not templates:
        raise ValueError("no templates given: MODEL.PROMPT.TEMPLATES needs at least one, e.g. 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must contain {{}} once, where the class name goes")
    return [[template.replace("{}", name) for name in names] for template in templates]
