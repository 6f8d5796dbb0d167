"""Semantic segmentation metrics and their reports."""

from .build import build_evaluator
from .semantic_evaluator import SemanticEvaluator

__all__ = ["SemanticEvaluator", "build_evaluator"]
