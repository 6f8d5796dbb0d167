"""Decoder whose attention scores are the masks ("attention to mask") [SegViT; ZegCLIP; TagCLIP section 3].

Shapes: B images, K queries (class rows, then the trusty row), D width, M heads, P patches of the memory.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskScores(nn.Module):
    """Query and key projections, and the attention scores they give: a mask logit per query and patch.

    Args:
        dim: D.
        num_heads: M.
    """

    def __init__(self, *, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)

    def scores(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Scaled attention scores before the softmax, averaged over heads.

        The mean over heads of q_h . k_h / sqrt(D / M) is one product of whole rows: q . k / sqrt(D M).

        Args:
            queries: (B, K, D).
            memory: (B, P, D).

        Returns:
            (B, K, P), not bounded.
        """
        scale = (self.q.out_features * self.num_heads) ** -0.5
        return (self.q(queries) * scale) @ self.k(memory).transpose(1, 2)


class MaskAttention(MaskScores):
    """Cross-attention of queries to patches with separate, biased projections.

    Args:
        dim: D.
        num_heads: M.
        dropout: on the attention weights.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float):
        super().__init__(dim=dim, num_heads=num_heads)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """What queries (B, K, D) fetch from memory (B, P, D): (B, K, D)."""
        q, k, v = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q(queries), self.k(memory), self.v(memory))
        )
        fetched = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(fetched.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Post-norm layer: self-attention among the queries (if any), cross-attention to the patches, feed-forward.

    Args:
        dim: D.
        num_heads: M.
        dim_feedforward: width of the feed-forward network.
        dropout: of attention weights, residual branches and the feed-forward network.
        self_attention: whether the queries attend to each other.
        keep_unused: without self-attention, still has its norm, which nothing uses: as in the released code.
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
        """Updated queries (B, K, D) from queries (B, K, D) and memory (B, P, D)."""
        if self.self_attn is not None:
            update, _ = self.self_attn(queries, queries, queries, need_weights=False)
            queries = self.norm1(queries + self.dropout(update))
        queries = self.norm2(queries + self.dropout(self.cross_attn(queries, memory)))
        hidden = self.dropout(torch.relu(self.linear1(queries)))
        return self.norm3(queries + self.dropout(self.linear2(hidden)))


class ScoringLayer(nn.Module):
    """The last layer, reduced to what reaches an output: its attention scores.

    Args:
        dim: D.
        num_heads: M.
    """

    def __init__(self, *, dim: int, num_heads: int):
        super().__init__()
        self.cross_attn = MaskScores(dim=dim, num_heads=num_heads)


class AttentionToMaskDecoder(nn.Module):
    """Layers, the first with self-attention among the queries; the last one's attention scores are the mask logits.

    Args:
        dim: D.
        num_heads: M.
        num_layers: layers, at least 2, the scoring one included.
        dim_feedforward: width of the feed-forward networks; None = 4 D.
        dropout: see DecoderLayer.
        keep_unused: builds also what never gets a gradient, as the released code does: the last layer's values,
            feed-forward network and norms, and the first norm of layers without self-attention.

    Raises:
        ValueError: fewer than two layers, or D is no multiple of M.
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
            raise ValueError(f"the decoder's width {dim} cannot be split into {num_heads} heads")
        if num_layers < 2:
            raise ValueError(f"the decoder needs a layer with self-attention and one that scores, got {num_layers}")
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
        """Mask logits (B, K, P) of queries (B, K, D) over memory (B, P, D)."""
        for layer in self.layers[:-1]:
            queries = layer(queries, memory)
        return self.layers[-1].cross_attn.scores(queries, memory)
