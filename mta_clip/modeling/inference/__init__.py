"""From predictions to score maps and label maps: whole image, sliding window, test-time augmentation."""

from .augmentation import AugmentedModel, build_tta_model
from .prepare import prepare_for_inference
from .semantic import MaskClassifier, classify_masks, score_blocks, semantic_inference, semantic_labels
from .sliding_window import SlidingWindow, build_sliding_window

__all__ = [
    "AugmentedModel",
    "MaskClassifier",
    "SlidingWindow",
    "build_sliding_window",
    "build_tta_model",
    "classify_masks",
    "prepare_for_inference",
    "score_blocks",
    "semantic_inference",
    "semantic_labels",
]
