"""Datasets, mapper and loaders. Importing this registers the datasets."""

from . import datasets
from .build import build_test_loader, build_train_loader, load_dataset_dicts
from .datasets.folder import register_folders
from .image_files import read_image
from .label_maps import LabelReader
from .mapper import SemanticDatasetMapper
from .model_classes import has_other_classes, unseen_classes, with_classes, with_classes_of
from .own_folder import own_config

__all__ = [
    "LabelReader",
    "SemanticDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "datasets",
    "has_other_classes",
    "load_dataset_dicts",
    "own_config",
    "read_image",
    "register_folders",
    "unseen_classes",
    "with_classes",
    "with_classes_of",
]
