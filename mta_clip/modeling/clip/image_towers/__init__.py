"""Kinds of image towers, one per file: each reads maps at strides 4, 8, 16, 32 from what open_clip or timm builds.

To add a kind, write a file with a subclass of FeatureTower, register it with IMAGE_TOWERS, and import it here.
"""

from .registry import IMAGE_TOWERS, STRIDES, FeatureTower, build_feature_tower
from .resnet import ResNetTower
from .swin import SwinTower
from .timm_pyramid import TimmPyramidTower
from .timm_vit import TimmViTTower
from .tokens import ScaleNeck, TokenTower
from .vit import ViTTower, resize_positions

__all__ = [
    "IMAGE_TOWERS",
    "STRIDES",
    "FeatureTower",
    "ResNetTower",
    "ScaleNeck",
    "SwinTower",
    "TimmPyramidTower",
    "TimmViTTower",
    "TokenTower",
    "ViTTower",
    "build_feature_tower",
    "resize_positions",
]
