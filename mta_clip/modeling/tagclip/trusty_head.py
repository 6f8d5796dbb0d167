"""Turns image token, patch map and class texts into mask logits and the trusty map [TagCLIP sections 3.2 and 3.3].

Shapes: B images, C classes, N all queries (C, or C + 1 with the trusty token last), D decoder width, here that of
CLIP's joint space (D = Dt), A heads, h and w = patch grid.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .decoder import AttentionToMaskDecoder


class RelationshipDescriptor(nn.Module):
    """Combines each text row with the image: a projection of (image token * text, text) [ZegCLIP section 3.3].

    Args:
        dim: D.
    """

    def __init__(self, *, dim: int):
        super().__init__()
        self.proj = nn.Linear(2 * dim, dim)

    def forward(self, image_token: Tensor, text: Tensor) -> Tensor:
        """Queries (B, N, D), from image tokens (B, D) and text rows (N, D)."""
        text = text.expand(len(image_token), -1, -1)
        return self.proj(torch.cat([image_token[:, None] * text, text], dim=2))


@SEM_SEG_HEADS_REGISTRY.register()
class TrustyHead(nn.Module):
    """Predicts mask logits of any number of classes, given by their text rows, and of the trusty token.

    The queries attend to each other in the first decoder layer, so the scores of a class depend on which other classes
    are given, but not on their order.

    Args:
        dim: D.
        num_heads: A.
        num_layers, dropout, keep_unused: see AttentionToMaskDecoder.
        trusty_token: whether to learn one more query, whose map predicts which pixels belong to seen classes (or to
            unseen ones, depending on the target of its loss); without it this is ZegCLIP's head.

    Raises:
        ValueError: see AttentionToMaskDecoder.
    """

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 8,
        num_layers: int = 3,
        dropout: float = 0.1,
        trusty_token: bool = True,
        keep_unused: bool = False,
    ):
        super().__init__()
        self.trusty_token = nn.Parameter(torch.empty(1, dim)) if trusty_token else None
        self.relationship_descriptor = RelationshipDescriptor(dim=dim)
        self.decoder = AttentionToMaskDecoder(
            dim=dim, num_heads=num_heads, num_layers=num_layers, dropout=dropout, keep_unused=keep_unused
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.zeros_(self.relationship_descriptor.proj.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Constructor arguments from a config.

        Raises:
            ValueError: the backbone gives no patch map.
        """
        node = cfg.MODEL.TAGCLIP
        if "patch_map" not in input_shape:
            raise ValueError(
                f"TrustyHead reads a patch map, but MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r} gives "
                f"{sorted(input_shape)}; TagCLIP needs PromptedImageEncoder"
            )
        return {
            "dim": input_shape["patch_map"].channels,
            "num_heads": node.NHEADS,
            "num_layers": node.DEC_LAYERS,
            "dropout": node.DROPOUT,
            "trusty_token": node.TRUSTY_TOKEN,
            "keep_unused": node.KEEP_UNUSED_PARAMETERS,
        }

    def forward(self, image_token: Tensor, patch_map: Tensor, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Computes logits of every class and of the trusty token at every patch.

        Args:
            image_token: (B, D), unit norm.
            patch_map: (B, D, h, w), unit norm over D; any h and w.
            text: (C, D), unit norm.

        Returns:
            Mask logits (B, C, h, w), and the trusty logits (B, 1, h, w) or None without a trusty token.
        """
        rows = text if self.trusty_token is None else torch.cat([text, self.trusty_token.to(text.dtype)])
        queries = self.relationship_descriptor(image_token, rows)
        logits = self.decoder(queries, patch_map.flatten(2).transpose(1, 2)).unflatten(2, patch_map.shape[-2:])
        if self.trusty_token is None:
            return logits, None
        return logits[:, :-1], logits[:, -1:]
