"""Base of the prompt learners: from class names to cached text features.

Shapes: Z contexts or templates, C classes, K = C + 1 rows (the last for no object), Dt text width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..clip.text_encoder import CLIPTextEncoder
from .class_names import class_names_from_config, clean_class_names


class PromptLearner(nn.Module):
    """Turns class names into text features, Z per class; a subclass says how a name becomes a prompt.

    Features that cannot change are computed once, in full precision, and kept: at inference always, in training if
    nothing is learned. `train()`, loading a state dict and moves to another device or dtype discard them.

    Args:
        text_encoder: frozen.
        class_names: C names.
        no_object_name: text of the no-object row.
    """

    learned = True  # whether the features depend on trained parameters

    def __init__(self, *, text_encoder: CLIPTextEncoder, class_names: Sequence[str], no_object_name: str = "none"):
        super().__init__()
        self.text_encoder = text_encoder
        self.class_names = clean_class_names(class_names)
        self.no_object_name = no_object_name
        self._cache: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments that all prompt learners share."""
        return {
            "class_names": class_names_from_config(cfg),  # first: wrong names are reported before weights are fetched
            "text_encoder": CLIPTextEncoder(
                name=cfg.MODEL.CLIP.NAME,
                pretrained=cfg.MODEL.CLIP.PRETRAINED,
                quick_gelu=cfg.MODEL.CLIP.QUICK_GELU,
                checkpointing=cfg.MODEL.CLIP.TEXT_CHECKPOINTING,
            ),
            "no_object_name": cfg.MODEL.PROMPT.NO_OBJECT_NAME,
        }

    @property
    def num_contexts(self) -> int:
        """Z."""
        raise NotImplementedError

    @property
    def text_dim(self) -> int:
        """Dt."""
        return self.text_encoder.text_dim

    def forward(self) -> Tensor:
        """Text features of the classes and, last, of no object: (Z, K, Dt), not normalised."""
        if self.training and self.learned:
            return self.encode_classes()
        if self._cache is None:
            # A tensor made in inference mode could never be used in training again.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                self._cache = self.encode_classes()
        return self._cache

    def encode(self, class_names: Sequence[str]) -> Tensor:
        """Text features of any names, with the same prompts, and last of no object.

        Args:
            class_names: C' names; the no-object name is added.

        Returns:
            (Z, C' + 1, Dt), not normalised.

        Raises:
            ValueError: an empty name, or one that is too long for the text encoder.
        """
        return self.encode_names([*clean_class_names(class_names), self.no_object_name])

    def encode_classes(self) -> Tensor:
        """Text features of the learner's own classes and no object, computed anew: (Z, K, Dt)."""
        return self.encode_names([*self.class_names, self.no_object_name])

    def encode_names(self, names: list[str]) -> Tensor:
        """Text features of exactly these K' names: (Z, K', Dt)."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "PromptLearner":
        self._cache = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # also called for a load through a parent module
        self._cache = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args, **kwargs) -> "PromptLearner":
        self._cache = None
        return super()._apply(*args, **kwargs)

    @property
    def _device(self) -> torch.device:
        return next(self.text_encoder.parameters()).device
