"""Detectron2 meta-architectures: the models that a config names."""

from .base import SegmentationModel
from .mta_clip import MTACLIP
from .tag_clip import TagCLIP

__all__ = ["MTACLIP", "SegmentationModel", "TagCLIP"]
