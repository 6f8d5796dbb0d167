"""Learned contexts: MTA-CLIP's Mask-Text Prompt Learning, which uses several of CoOp's prompts per class.

Shapes: Z contexts, n vectors per context, E token width of the text tower.
"""

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
        init_std: standard deviation of the initial context vectors: normal, cut off at two standard deviations.
        common: arguments of PromptLearner.

    Raises:
        ValueError: there are no contexts or vectors, or a class name is too long for the text tower with them; see also
            `PromptLearner`.
    """

    @configurable
    def __init__(self, *, num_contexts: int = 3, context_length: int = 8, init_std: float = 0.02, **common: Any):
        super().__init__(**common)
        if num_contexts < 1 or context_length < 1:
            raise ValueError(
                f"NUM_CONTEXTS {num_contexts} and CONTEXT_LENGTH {context_length} must be at least 1; for prompts "
                "without learned vectors set MODEL.PROMPT.NAME TemplatePrompt"
            )
        self.contexts = nn.Parameter(torch.empty(num_contexts, context_length, self.text_encoder.width))  # (Z, n, E)
        nn.init.trunc_normal_(self.contexts, std=init_std, a=-2 * init_std, b=2 * init_std)
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

    def _tokenize(self, names: list[str]) -> Tensor:
        return self.text_encoder.tokenize(names, reserved=self.contexts.shape[1])
