"""Registry of pixel decoders: modules that turn encoder maps into mask features and decoder memories."""

from detectron2.utils.registry import Registry

PIXEL_DECODERS = Registry("PIXEL_DECODERS")
PIXEL_DECODERS.__doc__ = """
Called as `cls(cfg, input_shape)` with the `dict[str, ShapeSpec]` of the encoder. `forward(features)` returns the mask
features (B, Dm, h, w) at a quarter of the input and a list of memories (B, D, h_l, w_l), coarsest first; the
attributes `conv_dim` (D) and `mask_dim` (Dm) give the widths.
"""
