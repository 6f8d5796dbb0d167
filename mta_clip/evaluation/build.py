"""The evaluator of a dataset, from a config."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .semantic_evaluator import SemanticEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None) -> DatasetEvaluator:
    """Builds the evaluator that a registered dataset asks for; reports go to `output_dir` (default: OUTPUT_DIR).

    Raises:
        ValueError: the dataset's metadata asks for an evaluator other than "sem_seg"; see also `SemanticEvaluator`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind != "sem_seg":
        raise ValueError(
            f"dataset {dataset_name!r} asks for evaluator {kind!r}, but only 'sem_seg' is known; "
            "set `evaluator_type` in its metadata"
        )
    return SemanticEvaluator(cfg, dataset_name, cfg.OUTPUT_DIR if output_dir is None else output_dir)
