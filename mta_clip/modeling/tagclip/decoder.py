"""Decoder whose attention scores are the masks ("attention to mask") [SegViT; ZegCLIP; TagCLIP section 3].

Shapes: B images, N all queries (one per class, then the trusty token), D decoder width, A heads, S patches that queries
look at.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskScores(nn.Module):
    """Query and key projections and their attention scores: one mask logit per query and patch.

    Args:
        dim: D.
        num_heads: A.
    """

    def __init__(self, *, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)

    def scores(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Computes scaled attention scores before the softmax, averaged over heads.

        The mean over heads a of q_a . k_a / sqrt(D / A) equals one product of whole rows, q . k / sqrt(D A).

        Args:
            queries: (B, N, D).
            memory: (B, S, D).

        Returns:
            (B, N, S), unbounded.
        """
        scale = (self.q.out_features * self.num_heads) ** -0.5
        return (self.q(queries) * scale) @ self.k(memory).transpose(1, 2)


class MaskAttention(MaskScores):
    """Cross-attention of queries to patches, with separate projections that have biases.

    Args:
        dim: D.
        num_heads: A.
        dropout: probability for attention weights, in [0, 1].
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float):
        super().__init__(dim=dim, num_heads=num_heads)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = dropout

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
        dim: D.
        num_heads: A.
        dim_feedforward: hidden width of the feed-forward network.
        dropout: probability for attention weights, residual branches and the feed-forward network, in [0, 1].
        self_attention: whether the queries attend to each other.
        keep_unused: keeps the unused norm of the self-attention if there is no self-attention, as the released code
            does.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        self_attention: bool,
        keep_unused: bool = False,
    ):
        super().__init__()
        self.self_attn = (
            nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True) if self_attention else None
        )
        self.cross_attn = MaskAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim) if self_attention or keep_unused else None
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Updated queries (B, N, D), from queries (B, N, D) and memory (B, S, D)."""
        if self.self_attn is not None:
            update, _ = self.self_attn(queries, queries, queries, need_weights=False)
            queries = self.norm1(queries + self.dropout(update))
        queries = self.norm2(queries + self.dropout(self.cross_attn(queries, memory)))
        hidden = self.dropout(torch.relu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))


class ScoringLayer(nn.Module):
    """The last layer, reduced to its attention scores, the only part of it that is used.

    Args:
        dim: D.
        num_heads: A.
    """

    def __init__(self, *, dim: int, num_heads: int):
        super().__init__()
        self.cross_attn = MaskScores(dim=dim, num_heads=num_heads)


class AttentionToMaskDecoder(nn.Module):
    """Decoder layers; only the first has self-attention. The attention scores of the last layer are the mask logits.

    Args:
        dim: D.
        num_heads: A.
        num_layers: number of layers, including the last, which only computes scores; at least 2.
        dim_feedforward: hidden width of the feed-forward networks; None = 4 D.
        dropout: see DecoderLayer.
        keep_unused: also builds parameters that never get a gradient, as the released code does: the value projection,
            feed-forward network and norms of the last layer, and the first norm of layers without self-attention.

    Raises:
        ValueError: there are fewer than two layers, or D is not a multiple of A.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_layers: int = 3,
        dim_feedforward: int | None = None,
        dropout: float = 0.1,
        keep_unused: bool = False,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"the decoder's width {dim} cannot be split into {num_heads} heads; change MODEL.TAGCLIP.NHEADS"
            )
        if num_layers < 2:
            raise ValueError(
                f"MODEL.TAGCLIP.DEC_LAYERS must be at least 2, one layer with self-attention and one for the scores, "
                f"got {num_layers}"
            )
        self.layers = nn.ModuleList(
            DecoderLayer(
                dim=dim,
                num_heads=num_heads,
                dim_feedforward=dim_feedforward or 4 * dim,
                dropout=dropout,
                self_attention=index == 0,
                keep_unused=keep_unused,
            )
            for index in range(num_layers if keep_unused else num_layers - 1)
        )
        if not keep_unused:
            self.layers.append(ScoringLayer(dim=dim, num_heads=num_heads))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Mask logits (B, N, S), from queries (B, N, D) and memory (B, S, D)."""
        for layer in self.layers[:-1]:
            queries = layer(queries, memory)
        return self.layers[-1].cross_attn.scores(queries, memory)
