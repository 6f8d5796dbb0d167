"""Models; importing this package registers them with Detectron2."""

from . import clip, head, text
from .meta_arch import MTACLIP, SegmentationModel, TagCLIP

__all__ = ["MTACLIP", "SegmentationModel", "TagCLIP", "clip", "head", "text"]
