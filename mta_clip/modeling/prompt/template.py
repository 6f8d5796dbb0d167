"""Hand-written templates, "a photo of a {}.": nothing is learned.

Shapes: Z templates, C or K names, Dt text width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from ..clip.text_encoder import CLIPTextEncoder
from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS


@PROMPT_LEARNERS.register()
class TemplatePrompt(PromptLearner):
    """Class names in Z fixed templates.

    Args:
        text_encoder, class_names, no_object_name: as in `PromptLearner`.
        templates: Z texts with one `{}` each, where the name goes.

    Raises:
        ValueError: no templates, or one without exactly one `{}`; a prompt that is too long.
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
    ):
        super().__init__(text_encoder=text_encoder, class_names=class_names, no_object_name=no_object_name)
        self.templates = list(templates)
        for prompts in fill_templates([*self.class_names, no_object_name], self.templates):
            text_encoder.tokenize(prompts)  # refuses long names now, not at the first image

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "templates": cfg.MODEL.PROMPT.TEMPLATES,
        }

    @property
    def num_contexts(self) -> int:
        return len(self.templates)

    def encode_names(self, names: list[str]) -> Tensor:
        return encode_templates(self.text_encoder, names, self.templates)


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Per template, the prompts of all names.

    Raises:
        ValueError: no templates, or one without exactly one `{}`.
    """
    if not templates:
        raise ValueError("no templates given: MODEL.PROMPT.TEMPLATES needs at least one, e.g. 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must contain {{}} once, where the class name goes")
    return [[template.replace("{}", name) for name in names] for template in templates]


def encode_templates(text_encoder: CLIPTextEncoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Text features (Z, K, Dt), not normalised, of K names in Z templates."""
    features = [text_encoder(text_encoder.tokenize(prompts)) for prompts in fill_templates(names, templates)]
    return torch.cat(features)


@torch.no_grad()
def average_templates(text_encoder: CLIPTextEncoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Prompt ensemble: features normalised per template, averaged, normalised again (CLIP; ZegCLIP, TagCLIP).

    Returns:
        (C, Dt), rows of L2 norm 1.
    """
    return F.normalize(F.normalize(encode_templates(text_encoder, names, templates), dim=-1).mean(dim=0), dim=-1)
