"""Datasets, mapper and loaders. Importing this registers the datasets."""

from . import datasets
from .build import build_test_loader, build_train_loader, load_dataset_dicts
from .datasets.folder import register_folders
from .label_maps import LabelReader, read_image
from .mapper import SemanticDatasetMapper
from .model_classes import has_other_classes, unseen_classes, with_classes, with_classes_of

__all__ = [
    "LabelReader",
    "SemanticDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "datasets",
    "has_other_classes",
    "load_dataset_dicts",
    "read_image",
    "register_folders",
    "unseen_classes",
    "with_classes",
    "with_classes_of",
]
