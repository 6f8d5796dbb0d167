"""Registry of transformer decoders: modules that turn memories, mask features and text into mask predictions."""

from detectron2.utils.registry import Registry

TRANSFORMER_DECODERS = Registry("TRANSFORMER_DECODERS")
TRANSFORMER_DECODERS.__doc__ = """
Called as `cls(cfg, in_channels=, mask_dim=)`. `forward(memories, mask_features, text=None)` returns a HeadOutput.
"""
