"""Turns image token, patch map and class texts into mask logits and the trusty map [TagCLIP's code].

Shapes: B images, C classes, N all queries (C, or C + 1 with the trusty token last), D decoder width, here that of
CLIP's joint space (D = Dt), h and w = patch grid.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .decoder import AttentionToMaskDecoder

# What a query can be made of, by its name in the released code: text rows q and image token s, both (B, N, D)
TERMS = {"q": lambda q, s: q, "s": lambda q, s: s, "qms": lambda q, s: q * s}


class RelationshipDescriptor(nn.Module):
    """Combines each text row with the image: a projection of concatenated terms [ZegCLIP; TagCLIP's code].

    Args:
        dim: D.
        terms: names in TERMS, joined by "_", each at most once. ZegCLIP and TagCLIP use qms_q; the released code also
            has s_q and q.

    Raises:
        ValueError: an unknown or repeated term, or none that has text in it.
    """

    def __init__(self, *, dim: int, terms: str = "qms_q"):
        super().__init__()
        self.terms = terms.split("_")
        if set(self.terms) - set(TERMS) or len(set(self.terms)) < len(self.terms) or self.terms == ["s"]:
            raise ValueError(
                f"MODEL.TAGCLIP.DESCRIPTOR is {terms!r}; expected terms joined by _, such as qms_q, s_q or q, each at "
                "most once: q (text), s (image token, not alone), qms (their product)"
            )
        self.proj = nn.Linear(len(self.terms) * dim, dim)

    def forward(self, image_token: Tensor, text: Tensor) -> Tensor:
        """Queries (B, N, D), from image tokens (B, D) and text rows (N, D)."""
        q = text.expand(image_token.shape[0], -1, -1)
        s = image_token[:, None].expand_as(q)
        return self.proj(torch.cat([TERMS[term](q, s) for term in self.terms], dim=2))


@SEM_SEG_HEADS_REGISTRY.register()
class TrustyHead(nn.Module):
    """Predicts mask logits of any number of classes, given by their text rows, and of the trusty token.

    With self-attention the scores of a class depend on which other classes are given, but not on their order. Without
    it and without a trusty token this is ZegCLIP's head.

    Args:
        dim: D.
        descriptor: `terms` of RelationshipDescriptor.
        trusty_token: whether to learn one more query, whose map predicts which pixels belong to seen classes (or to
            unseen ones, depending on the target of its loss).
        **decoder: further arguments of AttentionToMaskDecoder, such as `num_heads`.

    Raises:
        ValueError: see RelationshipDescriptor and AttentionToMaskDecoder.
    """

    @configurable
    def __init__(self, *, dim: int, descriptor: str = "qms_q", trusty_token: bool = True, **decoder: Any):
        super().__init__()
        self.trusty_token = nn.Parameter(torch.empty(1, dim)) if trusty_token else None
        self.relationship_descriptor = RelationshipDescriptor(dim=dim, terms=descriptor)
        self.decoder = AttentionToMaskDecoder(dim=dim, **decoder)
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
            "descriptor": node.DESCRIPTOR,
            "trusty_token": node.TRUSTY_TOKEN,
            "num_heads": node.NHEADS,
            "num_layers": node.DEC_LAYERS,
            "dropout": node.DROPOUT,
            "self_attention": node.SELF_ATTENTION,
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
