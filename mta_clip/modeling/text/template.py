"""Hand-written templates such as "a photo of a {}."; nothing is learned.

Template sets are text files in `templates/`: one template per line, lines that start with `#` are comments.

Shapes: Z templates or template sets.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..clip.text_encoder import CLIPTextEncoder
from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS
from .synonyms import all_synonyms, mean_direction

_SETS = Path(__file__).parent / "templates"


@PROMPT_LEARNERS.register()
class TemplatePrompt(PromptLearner):
    """Class names in Z fixed templates.

    Args:
        templates: Z texts with one `{}` each, where the name goes; or names of sets (vild, imagenet80, single). A set
            counts as one template: the features of its prompts are averaged, see `mean_direction`.
        common: arguments of PromptLearner.

    Raises:
        ValueError: there are no templates, one does not contain exactly one `{}` and names no set, or a prompt is too
            long for the text tower; see also `PromptLearner`.
    """

    learned = False

    @configurable
    def __init__(self, *, templates: Sequence[str] = ("a photo of a {}.",), **common: Any):
        super().__init__(**common)
        self.templates = list(templates)
        self.template_sets = template_sets(self.templates)
        texts, _ = all_synonyms(self.class_names)
        for prompts in fill_templates([*texts, self.no_object_name], list(chain.from_iterable(self.template_sets))):
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
        return torch.cat([encode_in_templates(self.text_encoder, names, templates) for templates in self.template_sets])


def encode_in_templates(text_encoder: CLIPTextEncoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Text features (1, K', Dt) of K' names in one template, or the mean direction of those in several.

    Raises:
        ValueError: a prompt is too long for the text tower.
    """
    encoded = (text_encoder(text_encoder.tokenize(prompts)) for prompts in fill_templates(names, templates))
    return next(encoded) if len(templates) == 1 else mean_direction(encoded)


def template_sets(templates: Sequence[str]) -> list[list[str]]:
    """For each template itself, for each name of a set its templates.

    Raises:
        ValueError: there are no templates, or one neither contains exactly one `{}` nor names a set.
    """
    known = sorted(path.stem for path in _SETS.glob("*.txt"))
    sets = [_read_set(entry) if entry in known else [entry] for entry in templates]
    try:
        fill_templates([], list(chain.from_iterable(sets)))
    except ValueError as error:
        raise ValueError(f"{error} Template sets are {', '.join(known)}") from error
    return sets


def _read_set(name: str) -> list[str]:
    lines = (_SETS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """For each template, the prompts of all names.

    Raises:
        ValueError: there are no templates, or one does not contain exactly one `{}`.
    """
    if not templates:
        raise ValueError("no templates given: MODEL.PROMPT.TEMPLATES needs at least one, e.g. 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must contain {{}} once, where the class name goes.")
    return [[template.replace("{}", name) for name in names] for template in templates]
