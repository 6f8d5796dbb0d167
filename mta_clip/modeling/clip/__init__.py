"""Adapted towers of open_clip and timm: an image encoder with four feature maps and a frozen text encoder."""

from .image_encoder import CLIPImageEncoder
from .image_towers import resize_positions
from .text_encoder import CLIPTextEncoder, knows_language
from .text_towers import CausalTextTower
from .towers import build_clip, clip_config
from .visual import build_visual, image_tower_settings

__all__ = [
    "CLIPImageEncoder",
    "CLIPTextEncoder",
    "CausalTextTower",
    "build_clip",
    "build_visual",
    "clip_config",
    "image_tower_settings",
    "knows_language",
    "resize_positions",
]
