"""Detectron2 meta-architectures: the models that MODEL.META_ARCHITECTURE names."""

from .base import SegmentationModel
from .mta_clip import MTACLIP
from .tag_clip import TagCLIP

__all__ = ["MTACLIP", "SegmentationModel", "TagCLIP"]
