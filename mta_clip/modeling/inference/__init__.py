"""From predictions to scores and labels: whole images, sliding windows, test-time augmentation."""

from .augmentation import AugmentedModel
from .output import make_output
from .progress import reporting_progress
from .score_map import MaskScores, ScoreMap, Scores, WholeScores
from .sliding_window import SlidingWindow, WindowScores, build_sliding_window

__all__ = [
    "AugmentedModel",
    "MaskScores",
    "ScoreMap",
    "Scores",
    "SlidingWindow",
    "WholeScores",
    "WindowScores",
    "build_sliding_window",
    "make_output",
    "reporting_progress",
]
