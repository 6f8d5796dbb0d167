"""Attention with a bias that all heads share, and the bias of masked attention (Mask2Former, section 3.2.1).

Shapes: B images, A heads, N queries, S tokens that queries look at, d channels per head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attention_with_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention: softmax(query key^T / sqrt(d) + bias) value.

    Args:
        query: (B, A, N, d).
        key: (B, A, S, d).
        value: (B, A, S, d).
        bias: (B, N, S), shared by all heads; None = 0.

    Returns:
        (B, A, N, d).
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias[:, None]
    return scores.softmax(-1) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """`attention_with_bias`, computed by PyTorch's fused kernel."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=None if bias is None else bias[:, None])


@torch.no_grad()
def mask_bias(mask_logits: Tensor) -> Tensor:
    """The bias of masked attention: -inf where the mask probability is below 0.5, else 0.

    Args:
        mask_logits: (B, N, S).

    Returns:
        (B, N, S), in the dtype of the logits. Queries with an empty mask get 0 everywhere and attend to all tokens.
    """
    outside = mask_logits < 0
    outside &= ~outside.all(dim=-1, keepdim=True)
    return torch.zeros_like(mask_logits).masked_fill_(outside, -torch.inf)


@torch.no_grad()
def mask_bias_in_numbers(mask_logits: Tensor) -> Tensor:
    """`mask_bias` for CPUs, where booleans take ten times as long; the lowest number stands for -inf."""
    threshold = torch.where(mask_logits.amax(dim=-1, keepdim=True) < 0, -torch.inf, 0.0)
    return torch.lt(mask_logits, threshold, out=torch.empty_like(mask_logits)).mul_(torch.finfo(mask_logits.dtype).min)


def short_softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, which has few values, such as the samples of deformable attention.

    Args:
        logits: (..., J) float32.

    Returns:
        (..., J), in 0..1.
    """
    return logits.softmax(-1)


def short_softmax_by_steps(logits: Tensor) -> Tensor:
    """`short_softmax` for CPUs, where PyTorch's own takes five times as long over 12 values."""
    weights = (logits - logits.detach().amax(dim=-1, keepdim=True)).exp()
    return weights / weights.sum(dim=-1, keepdim=True)
