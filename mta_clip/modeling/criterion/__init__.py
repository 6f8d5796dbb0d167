"""Training: targets from label maps, matching, and the mask, class and similarity losses."""

from .criterion import MaskTextCriterion
from .matcher import HungarianMatcher, Match
from .similarity_loss import SIMILARITY_LOSSES, SimilarityLoss
from .targets import Target, present_labels, targets_from_sem_seg

__all__ = [
    "SIMILARITY_LOSSES",
    "HungarianMatcher",
    "MaskTextCriterion",
    "Match",
    "SimilarityLoss",
    "Target",
    "present_labels",
    "targets_from_sem_seg",
]
