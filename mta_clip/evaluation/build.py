"""The evaluator of a dataset, from a config."""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .semantic_evaluator import SemanticEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None) -> DatasetEvaluator:
    """Builds the evaluator that a registered dataset asks for.

    Args:
        output_dir: where reports go; default: OUTPUT_DIR, and a folder in it for each dataset if DATASETS.TEST names
            several.

    Raises:
        ValueError: the dataset's metadata asks for another evaluator than "sem_seg".
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind != "sem_seg":
        raise ValueError(
            f"dataset {dataset_name!r} asks for evaluator {kind!r}, but only 'sem_seg' is known; "
            "set `evaluator_type` in its metadata"
        )
    if output_dir is None:
        output_dir = cfg.OUTPUT_DIR if len(cfg.DATASETS.TEST) <= 1 else os.path.join(cfg.OUTPUT_DIR, dataset_name)
    return SemanticEvaluator(cfg, dataset_name, output_dir)
