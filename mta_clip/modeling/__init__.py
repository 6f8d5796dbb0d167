"""Models; importing this registers them with Detectron2."""

from . import clip, head, meta_arch, prompt

__all__ = ["clip", "head", "meta_arch", "prompt"]
