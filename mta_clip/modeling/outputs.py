"""What a mask classification head returns, and what the criterion and the inference read.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class, Dm mask embedding
width, h and w = a quarter of the padded input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LayerPrediction:
    """Predictions read off the queries after one decoder layer (or before the first)."""

    class_logits: Tensor  # (B, Q, K)
    mask_embed: Tensor  # (B, Q, Dm)
    similarity: Tensor | None = None  # (Z, B, Q, K), cosines in [-1, 1]; None without text


@dataclass
class HeadOutput:
    """Predictions of all decoder layers over one shared mask feature map.

    Mask logits are linear in the mask features, so they are kept factored: a loss that samples points or a subset of
    queries never has to pay for all (B, Q, h, w) of them.
    """

    mask_features: Tensor  # (B, Dm, h, w)
    layers: list[LayerPrediction]  # [0] = before the first layer, [i] = after layer i; at inference only the last

    @property
    def final(self) -> LayerPrediction:
        return self.layers[-1]

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits of one layer.

        Returns:
            (B, Q, h, w), not bounded.
        """
        return torch.einsum("bqd,bdhw->bqhw", self.layers[layer].mask_embed, self.mask_features)
