"""Operators with a plain form (the definition, in a few lines of PyTorch) and a faster one where that pays off.

Only this table chooses between the forms. Layers call an operator without regard to the device or memory layout.

Shapes: as in the module of each operator.
"""

from . import argmax, attention, embedding_bag, masks, sampling
from .dispatch import dispatch, plain_forms
from .resizing import RowResizer, row_blocks

# (B, N, A * d) of values (B, S, A, d): sums of weighted bilinear samples
deformable_sampling = dispatch(
    sampling.deformable_sampling,
    everywhere=embedding_bag.deformable_sampling,
    mps=sampling.deformable_sampling,
    named={
        "triton": sampling.deformable_sampling_by_triton,
        "embedding_bag": embedding_bag.deformable_sampling,
        "grid_sample": sampling.deformable_sampling,
    },
)
# (B, A, N, d): attention with a bias that all heads share
attention_with_bias = dispatch(attention.attention_with_bias, everywhere=attention.fused_attention)
# (B, N, S), from mask logits: what keeps queries inside their masks
mask_bias = dispatch(attention.mask_bias, cpu=attention.mask_bias_in_numbers)
# (..., J): softmax over few values
short_softmax = dispatch(attention.short_softmax, cpu=attention.short_softmax_by_steps)
# (Q, r, W): rows of upsampled mask probabilities, from logits (Q, h, w)
mask_probabilities = dispatch(masks.mask_probabilities, everywhere=masks.mask_probabilities_by_row)
# (...), from scores (C, ...): index of the first of the largest scores
argmax_classes = dispatch(argmax.argmax_classes, cpu=argmax.argmax_by_comparison)

__all__ = [
    "RowResizer",
    "argmax_classes",
    "attention_with_bias",
    "deformable_sampling",
    "mask_bias",
    "mask_probabilities",
    "plain_forms",
    "row_blocks",
    "short_softmax",
]
