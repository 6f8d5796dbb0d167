"""Evaluates a model on every dataset of DATASETS.TEST."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from torch import nn

from ..data import build_test_loader
from ..evaluation import build_evaluator
from ..modeling.inference import AugmentedModel
from .distributed import broadcast_buffers, unwrap_model

logger = logging.getLogger(__name__)

Results = dict[str, Any]  # {task: {metric: value}}, or {dataset: {task: ...}} for several datasets


def evaluate(cfg: CfgNode, model: nn.Module, *, subfolder: str = "") -> Results:
    """Runs the model over every dataset of DATASETS.TEST.

    Args:
        model: maps detectron2's dicts to `[{"sem_seg": ...}]` or `[{"labels": ...}]`; runs in eval mode.
        subfolder: of OUTPUT_DIR, for the evaluator's files.

    Returns:
        On the main process the evaluator's nested dict, or {dataset: dict} if there are several datasets; {} on the
        others.

    Raises:
        ValueError: DATASETS.TEST is empty.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name at least one dataset to evaluate")
    model = unwrap_model(model)  # the processes have unequal numbers of images; nothing may wait for another
    broadcast_buffers(model)
    results: Results = OrderedDict()
    for name in cfg.DATASETS.TEST:
        folder = Path(cfg.OUTPUT_DIR) / subfolder / (name if len(cfg.DATASETS.TEST) > 1 else "")
        evaluator = build_evaluator(cfg, name, str(folder))
        results[name] = inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
    if not comm.is_main_process():
        return {}
    return results if len(results) > 1 else next(iter(results.values()))


def evaluate_with_augmentation(cfg: CfgNode, model: nn.Module) -> Results:
    """Like `evaluate`, but averages scores over the scales and flips of TEST.AUG; names of results end in _TTA.

    Args:
        model: a `SegmentationModel`.

    Raises:
        ValueError: DATASETS.TEST or TEST.AUG.MIN_SIZES is empty, or the model is of another kind.
    """
    logger.info("Evaluating with test-time augmentation (TEST.AUG)")
    augmented = AugmentedModel(cfg, unwrap_model(model))
    return {f"{name}_TTA": values for name, values in evaluate(cfg, augmented, subfolder="tta").items()}


def mean_iou(results: Results) -> float | None:
    """The mIoU in a nested result dict, in percent; the first if there are several, None if there is none."""
    if "mIoU" in results:
        return float(results["mIoU"])
    values = (mean_iou(value) for value in results.values() if isinstance(value, dict))
    return next((value for value in values if value is not None), None)
