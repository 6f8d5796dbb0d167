"""Adapted towers of open_clip: an image encoder with four feature maps and a frozen text encoder."""

from .feature_towers import resize_positions
from .image_encoder import CLIPImageEncoder
from .text_encoder import CLIPTextEncoder
from .text_towers import CausalTextTower
from .towers import build_clip, clip_config

__all__ = ["CLIPImageEncoder", "CLIPTextEncoder", "CausalTextTower", "build_clip", "clip_config", "resize_positions"]
