"""Training: targets from label maps, matching, and the mask, class and similarity losses."""

from .criterion import MaskTextCriterion
from .matcher import HungarianMatcher, Match
from .similarity_loss import SimilarityLoss
from .targets import Target, targets_from_sem_seg

__all__ = ["HungarianMatcher", "MaskTextCriterion", "Match", "SimilarityLoss", "Target", "targets_from_sem_seg"]
