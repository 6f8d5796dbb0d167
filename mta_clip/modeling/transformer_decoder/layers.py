"""Building blocks of the masked transformer decoder (Mask2Former, arXiv 2112.01527, section 3.2).

Shapes: B images, N queries, S memory tokens, D width.
"""

from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Multi-head attention on batch-first tensors, through PyTorch's fused kernel.

    Parameters are named and packed as in `nn.MultiheadAttention`, so that released weights fit.

    Args:
        embed_dim: D.
        num_heads: attention heads.

    Raises:
        ValueError: D is not a multiple of the number of heads.
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
        """Attends.

        Args:
            query: (B, N, D).
            key: (B, S, D).
            value: (B, S, D).
            bias: (B, N, S), added to the scores of every head before the softmax.

        Returns:
            (B, N, D).
        """
        projected = [
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        ]
        fused = torch.is_grad_enabled() or projected[0].dtype != torch.bfloat16 or query.device.type != "cpu"
        attended = (_fused_attention if fused else _attention_by_head)(*projected, bias)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of (B, heads, N, d) to (B, heads, S, d), with a bias (B, N, S) that all heads share."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=None if bias is None else bias[:, None])


@torch.compiler.disable  # it would unroll the loop
def _attention_by_head(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """The same for bfloat16 on CPUs, whose matrix products the fused kernel does not use: takes 0.7 of its time.

    The scores of one head at a time fit into a cache, which those of all heads would not.
    """
    attended = torch.empty_like(query)
    scale = query.shape[-1] ** -0.5
    for image, head in product(range(query.shape[0]), range(query.shape[1])):
        q, k = query[image, head], key[image, head].t()
        scores = q @ k * scale if bias is None else torch.addmm(bias[image], q, k, alpha=scale)
        torch.mm(scores.softmax(-1), value[image, head], out=attended[image, head])
    return attended


class MaskedDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network; each with a residual and a LayerNorm after it.

    Args:
        embed_dim: D.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward network.
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
        """Refines the queries.

        Args:
            queries: (B, N, D).
            position: (N, D), added to the queries (and keys of self-attention), not to values.
            keys: (B, S, D), the memory with its position encoding.
            memory: (B, S, D).
            bias: (B, N, S), very low where a query may not look; added to the cross-attention scores.

        Returns:
            (B, N, D).
        """
        queries = self.cross_attn_norm(queries + self.cross_attn(queries + position, keys, memory, bias))
        positioned = queries + position
        queries = self.self_attn_norm(queries + self.self_attn(positioned, positioned, queries))
        hidden = F.relu(self.linear1(queries), inplace=True)
        return self.ffn_norm(queries + self.linear2(hidden))


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        input_dim, hidden_dim, output_dim: widths.
        num_layers: linear layers, at least 1.
    """

    def __init__(self, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)
