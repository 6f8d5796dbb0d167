"""Models; importing this registers them with Detectron2."""

from . import head

__all__ = ["head"]
