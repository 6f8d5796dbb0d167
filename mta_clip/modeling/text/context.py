"""Learned contexts: MTA-CLIP's Mask-Text Prompt Learning, which uses several of CoOp's prompts per class.

Shapes: Z contexts, n vectors per context, E token width of the text tower.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .prompt_learner import PromptLearner
from .registry import PROMPT_LEARNERS
from .synonyms import all_synonyms, mean_of_synonyms


@PROMPT_LEARNERS.register()
class ContextPromptLearner(PromptLearner):
    """Z learned contexts, shared by all classes: [start, context vectors, class name, end].

    Args:
        num_contexts: Z, at least 1.
        context_length: n, at least 1.
        init_std: standard deviation of the initial context vectors, above 0: normal, cut off at two of it.
        init_templates: Z texts, such as "a photo of a", whose tokens the last vectors of the contexts start as; vectors
            before them start as above. (): all do.
        common: arguments of PromptLearner.

    Raises:
        ValueError: there are no contexts or vectors, a class name is too long for the text tower with them, or there
            are not Z templates of 1 to n tokens; see also `PromptLearner`.
    """

    @configurable
    def __init__(
        self,
        *,
        num_contexts: int = 3,
        context_length: int = 8,
        init_std: float = 0.02,
        init_templates: Sequence[str] = (),
        **common: Any,
    ):
        super().__init__(**common)
        if num_contexts < 1 or context_length < 1:
            raise ValueError(
                f"NUM_CONTEXTS {num_contexts} and CONTEXT_LENGTH {context_length} must be at least 1; for prompts "
                "without learned vectors set MODEL.PROMPT.NAME TemplatePrompt"
            )
        self.contexts = nn.Parameter(torch.empty(num_contexts, context_length, self.text_encoder.width))  # (Z, n, E)
        nn.init.trunc_normal_(self.contexts, std=init_std, a=-2 * init_std, b=2 * init_std)
        if init_templates:
            self._start_from(init_templates)
        texts, self._owners = all_synonyms(self.class_names)
        self.tokens = self._tokenize([*texts, self.no_object_name])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """See PromptLearner."""
        return {
            **super().from_config(cfg),
            "num_contexts": cfg.MODEL.PROMPT.NUM_CONTEXTS,
            "context_length": cfg.MODEL.PROMPT.CONTEXT_LENGTH,
            "init_std": cfg.MODEL.PROMPT.INIT_STD,
            "init_templates": cfg.MODEL.PROMPT.INIT_TEMPLATES,
        }

    @property
    def num_contexts(self) -> int:
        """Z."""
        return len(self.contexts)

    def encode_classes(self) -> Tensor:
        """See PromptLearner."""
        return mean_of_synonyms(self.text_encoder(self.tokens, self.contexts), self._owners)

    def encode_names(self, names: list[str]) -> Tensor:
        """See PromptLearner."""
        return self.text_encoder(self._tokenize(names), self.contexts)

    @torch.no_grad()
    def _start_from(self, templates: Sequence[str]) -> None:
        if len(templates) != self.num_contexts:
            raise ValueError(
                f"MODEL.PROMPT.INIT_TEMPLATES has {len(templates)} templates, but MODEL.PROMPT.NUM_CONTEXTS is "
                f"{self.num_contexts}; give one to each context, or none"
            )
        for context, template in zip(self.contexts, templates, strict=True):
            words = self.text_encoder.embed_words(template)
            if not 0 < len(words) <= len(context):
                raise ValueError(
                    f"MODEL.PROMPT.INIT_TEMPLATES: {template!r} has {len(words)} tokens, expected 1 to "
                    f"{len(context)} (MODEL.PROMPT.CONTEXT_LENGTH)"
                )
            context[-len(words) :] = words

    def _tokenize(self, names: list[str]) -> Tensor:
        return self.text_encoder.tokenize(names, reserved=self.contexts.shape[1])
