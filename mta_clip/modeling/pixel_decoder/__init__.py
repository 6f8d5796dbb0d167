"""Pixel decoders: turn encoder maps into mask features and multi-scale memories."""

from .deformable_attention import MSDeformAttn, multi_scale_deformable_attention
from .msdeformattn import MSDeformAttnPixelDecoder
from .position_encoding import PositionEmbeddingSine
from .registry import PIXEL_DECODERS

__all__ = [
    "PIXEL_DECODERS",
    "MSDeformAttn",
    "MSDeformAttnPixelDecoder",
    "PositionEmbeddingSine",
    "multi_scale_deformable_attention",
]
