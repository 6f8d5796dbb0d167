"""Semantic segmentation metrics and their reports."""

from .build import build_evaluator
from .report import format_datasets
from .semantic_evaluator import SemanticEvaluator

__all__ = ["SemanticEvaluator", "build_evaluator", "format_datasets"]
