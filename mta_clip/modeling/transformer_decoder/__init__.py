"""Transformer decoders: turn memories, mask features and text into mask predictions."""

from .mask_text_decoder import MaskTextDecoder
from .masked_decoder import MultiScaleMaskedTransformerDecoder
from .registry import TRANSFORMER_DECODERS

__all__ = ["TRANSFORMER_DECODERS", "MaskTextDecoder", "MultiScaleMaskedTransformerDecoder"]
