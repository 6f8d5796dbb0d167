"""Decoder whose attention scores are the masks ("attention to mask") [SegViT; ZegCLIP; TagCLIP's code].

Shapes: B images, N all queries (one per class, then the trusty token), D decoder width, A heads, S patches that queries
look at.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskAttention(nn.Module):
    """Cross-attention of queries to patches; its scores before the softmax are mask logits.

    Args:
        dim: D.
        num_heads: A.
        dropout: probability for attention weights, in [0, 1].
        scores_only: leaves out the projections that only `forward` needs.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0, scores_only: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        if not scores_only:
            self.v = nn.Linear(dim, dim)
            self.proj = nn.Linear(dim, dim)

    def scores(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Scaled scores averaged over heads, (B, N, S), unbounded, from queries (B, N, D) and memory (B, S, D).

        The mean over heads a of q_a . k_a / sqrt(D / A) equals one product of whole rows, q . k / sqrt(D A).
        """
        scale = (self.q.out_features * self.num_heads) ** -0.5
        return (self.q(queries) * scale) @ self.k(memory).transpose(1, 2)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """The attended values (B, N, D), from queries (B, N, D) and memory (B, S, D)."""
        q, k, v = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q(queries), self.k(memory), self.v(memory))
        )
        fetched = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(fetched.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Post-norm layer: optional self-attention of the queries, cross-attention to the patches, feed-forward network.

    Args:
        dim: D; the hidden width of the feed-forward network is 4 D.
        num_heads: A.
        dropout: probability for attention weights, residual branches and the feed-forward network, in [0, 1].
        self_attention: whether the queries attend to each other.
        keep_unused: builds the norm of the self-attention even without one, as the released code does.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float, self_attention: bool, keep_unused: bool = False):
        super().__init__()
        self.self_attn = (
            nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True) if self_attention else None
        )
        self.cross_attn = MaskAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm1 = nn.LayerNorm(dim) if self_attention or keep_unused else None
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Updated queries (B, N, D), from queries (B, N, D) and memory (B, S, D)."""
        if self.self_attn is not None:
            update, _ = self.self_attn(queries, queries, queries, need_weights=False)
            queries = self.norm1(queries + self.dropout(update))  # type: ignore[misc]  # as self_attn
        queries = self.norm2(queries + self.dropout(self.cross_attn(queries, memory)))
        hidden = self.dropout(torch.relu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))


class AttentionToMaskDecoder(nn.Module):
    """Decoder layers; the attention scores of the last one are the mask logits.

    Args:
        dim: D.
        num_heads: A.
        num_layers: number of layers, including the last, which only computes scores; at least 2.
        dropout: see DecoderLayer.
        self_attention: whether queries attend to each other in the first layer (TagCLIP) or nowhere (ZegCLIP).
        keep_unused: also builds parameters that never get a gradient, as the released code does: the value projection,
            feed-forward network and norms of the last layer, and the first norm of layers without self-attention.

    Raises:
        ValueError: there are fewer than two layers, or D is not a multiple of A.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 8,
        num_layers: int = 3,
        dropout: float = 0.1,
        self_attention: bool = True,
        keep_unused: bool = False,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"the decoder's width {dim} cannot be split into {num_heads} heads; change MODEL.TAGCLIP.NHEADS"
            )
        if num_layers < 2:
            raise ValueError(f"MODEL.TAGCLIP.DEC_LAYERS must be at least 2, as the last only scores, got {num_layers}")
        options: dict[str, Any] = {"dim": dim, "num_heads": num_heads, "dropout": dropout, "keep_unused": keep_unused}
        full_layers = num_layers if keep_unused else num_layers - 1
        self.layers = nn.ModuleList(
            DecoderLayer(self_attention=self_attention and i == 0, **options) for i in range(full_layers)
        )
        if not keep_unused:
            scoring = MaskAttention(dim=dim, num_heads=num_heads, scores_only=True)
            self.layers.append(nn.ModuleDict({"cross_attn": scoring}))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Mask logits (B, N, S), from queries (B, N, D) and memory (B, S, D)."""
        *layers, last = self.layers
        for layer in layers:
            queries = layer(queries, memory)
        return last.cross_attn.scores(queries, memory)
