"""Checkpoints: loading without running code, strict checks of names and shapes, conversion of other projects' files."""

from .checkpointer import SegmentationCheckpointer, is_shorter_table
from .readers import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "SegmentationCheckpointer", "is_shorter_table", "read_checkpoint"]
