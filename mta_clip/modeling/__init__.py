"""Models; importing this registers them with Detectron2."""

from . import clip, head, prompt
from .meta_arch import MTACLIP, TagCLIP

__all__ = ["MTACLIP", "TagCLIP", "clip", "head", "prompt"]
