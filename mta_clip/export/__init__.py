"""Models as files for other programs: ONNX, torch.export, OpenVINO."""

from .formats import SUFFIXES
from .model import VOCABULARIES, describe, export_model
from .names import save_names, text_features

__all__ = ["SUFFIXES", "VOCABULARIES", "describe", "export_model", "save_names", "text_features"]
