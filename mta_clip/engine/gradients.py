"""Gradient clipping, applied to unscaled gradients right before the optimizer's step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

CLIP_TYPES = ("full_model", "norm", "value")


class GradientClipper:
    """Clips by the norm of the whole model (Mask2Former's "full_model"), or per parameter as detectron2 does.

    Args:
        clip_type: full_model = one L2 norm over all parameters; norm = each parameter's own norm; value = each
            element; None = no clipping.
        clip_value: largest norm, or largest absolute value.
        norm_type: p of the norm for "norm"; "full_model" is always L2, as in Mask2Former.

    Raises:
        ValueError: unknown `clip_type`.
    """

    @configurable
    def __init__(self, *, clip_type: str | None, clip_value: float = 1.0, norm_type: float = 2.0) -> None:
        if clip_type is not None and clip_type not in CLIP_TYPES:
            raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip_type!r}, expected one of {list(CLIP_TYPES)}")
        self.clip_type = clip_type
        self.clip_value = clip_value
        self.norm_type = norm_type

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a config."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        return {
            "clip_type": clip.CLIP_TYPE if clip.ENABLED else None,
            "clip_value": clip.CLIP_VALUE,
            "norm_type": clip.NORM_TYPE,
        }

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clips the gradients in place; parameters without a gradient are skipped.

        Returns:
            () float, the L2 norm of all gradients before clipping.
        """
        parameters = [p for p in parameters if p.grad is not None]
        if self.clip_type == "full_model":
            return nn.utils.clip_grad_norm_(parameters, self.clip_value)
        total = nn.utils.clip_grad_norm_(parameters, math.inf)  # measures, changes nothing
        if self.clip_type == "norm":
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, self.clip_value, self.norm_type)
        elif self.clip_type == "value":
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        return torch.as_tensor(total)
