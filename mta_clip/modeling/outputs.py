"""What a mask classification head returns; the criterion and inference read it.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class, Dm mask embedding
width, Dt text width, h and w = a quarter of the padded input, h' and w' = the encoder's coarsest map.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class LayerPrediction:
    """Predictions made from the queries after one decoder layer, or before the first."""

    class_logits: Tensor  # (B, Q, K)
    mask_embed: Tensor  # (B, Q, Dm)
    similarity: Tensor | None = None  # (Z, B, Q, K), cosines with the (updated) text of training; None without text
    aligned_mask_embed: Tensor | None = None  # (B, Q, Dt), mask embeddings in text space; None without text

    def similarity_to(self, text: Tensor) -> Tensor:
        """Cosines (Z, B, Q, K') in [-1, 1] of the masks with the text of any names (open vocabulary).

        `similarity` compares with text' = text + gamma * update. The update exists only for rows that were queries of
        the decoder, so the text of other names is compared without it.

        Args:
            text: (Z, K', Dt), or (Z, B, K', Dt) if it differs between images; need not be normalised. K' rows of any
                text, with or without "no object".

        Raises:
            ValueError: the head that made this prediction does not compare masks with text.
        """
        if self.aligned_mask_embed is None:
            raise ValueError(
                "masks can only be compared with text by a head with text, such as MaskTextDecoder, "
                "and MODEL.MTA.SIMILARITY_WEIGHT above 0"
            )
        return cosines(self.aligned_mask_embed, text)


@dataclass
class HeadOutput:
    """Predictions of all decoder layers over one shared mask feature map.

    Mask logits are products of mask embeddings and mask features, and only these factors are stored. A loss that
    samples points or a subset of queries does not have to compute all (B, Q, h, w) logits.
    """

    mask_features: Tensor  # (B, Dm, h, w)
    layers: list[LayerPrediction]  # [0] = before the first layer, [i] = after layer i; at inference only the last
    pixel_scores: Tensor | None = None  # (B, C, h', w'), see PixelTextHead; None without one

    @property
    def final(self) -> LayerPrediction:
        """Prediction of the last layer."""
        return self.layers[-1]

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits (B, Q, h, w) of `layers[layer]`, unbounded; channels last in memory, like the mask features."""
        return torch.einsum("bdhw,bqd->bhwq", self.mask_features, self.layers[layer].mask_embed).permute(0, 3, 1, 2)


def cosines(embeddings: Tensor, text: Tensor) -> Tensor:
    """Cosines (Z, B, Q, K') in [-1, 1] of mask embeddings (B, Q, Dt) and text, (Z, K', Dt) or (Z, B, K', Dt)."""
    if text.dim() == 3:
        text = text[:, None]
    return F.normalize(embeddings, dim=-1) @ F.normalize(text, dim=-1).transpose(-1, -2)
