"""Models; importing this registers them with Detectron2."""

from . import clip, head, prompt

__all__ = ["clip", "head", "prompt"]
