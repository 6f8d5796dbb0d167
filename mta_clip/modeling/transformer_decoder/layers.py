"""Building blocks of the masked transformer decoder (Mask2Former, arXiv 2112.01527, section 3.2).

Shapes: B images, N queries, S tokens that queries look at, D decoder width, A attention heads.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import attention_with_bias


class MultiheadAttention(nn.Module):
    """Multi-head attention on batch-first tensors, of width `embed_dim` = D with `num_heads` = A.

    Parameters are named and packed as in `nn.MultiheadAttention`, so that released weights fit.

    Raises:
        ValueError: D is not a multiple of A.
    """

    def __init__(self, *, embed_dim: int, num_heads: int):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))  # query, key, value
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        for weight in (self.in_proj_weight, self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention (B, N, D) of a query (B, N, D) to key and value (B, S, D).

        The bias (B, N, S) is added to the scores of every head before the softmax; None = 0.
        """
        projected = [
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        ]
        attended = attention_with_bias(*projected, bias)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network; each has a residual, then a LayerNorm.

    Args:
        embed_dim: D.
        num_heads: A.
        feedforward_dim: hidden width of the feed-forward network.

    Raises:
        ValueError: D is not a multiple of A.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, feedforward_dim: int):
        super().__init__()
        self.cross_attn = MultiheadAttention(embed_dim=embed_dim, num_heads=num_heads)
        self.cross_attn_norm = nn.LayerNorm(embed_dim)
        self.self_attn = MultiheadAttention(embed_dim=embed_dim, num_heads=num_heads)
        self.self_attn_norm = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor, position: Tensor, keys: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Refines the queries (B, N, D).

        Args:
            queries: (B, N, D).
            position: (N, D), added to queries and to the keys of self-attention, but not to values.
            keys: (B, S, D), the memory with its position encoding.
            memory: (B, S, D).
            bias: (B, N, S), added to the cross-attention scores; -inf where a query must not attend.
        """
        queries = self.cross_attn_norm(queries + self.cross_attn(queries + position, keys, memory, bias))
        positioned = queries + position
        queries = self.self_attn_norm(queries + self.self_attn(positioned, positioned, queries))
        hidden = F.relu(self.linear1(queries), inplace=True)
        return self.ffn_norm(queries + self.linear2(hidden))


class MLP(nn.Module):
    """Linear layers with a ReLU between each two.

    Args:
        input_dim: width of the input.
        hidden_dim: width between layers.
        output_dim: width of the output.
        num_layers: number of linear layers, at least 1.
    """

    def __init__(self, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., output_dim) from (..., input_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)
