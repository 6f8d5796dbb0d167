"""Checkpoints: loading without running code, strict fitting, and conversion of other projects' files."""

from .checkpointer import SegmentationCheckpointer
from .readers import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "SegmentationCheckpointer", "read_checkpoint"]
