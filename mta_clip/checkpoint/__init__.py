"""Checkpoints: loading without running code, strict fitting, and conversion of other projects' files."""

from .checkpointer import SegmentationCheckpointer, is_shorter_table
from .readers import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "SegmentationCheckpointer", "is_shorter_table", "read_checkpoint"]
