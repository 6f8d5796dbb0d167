"""Evaluates a model on every dataset of DATASETS.TEST, each with its own class names."""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from ..data import build_test_loader, has_other_classes
from ..evaluation import build_evaluator, format_datasets
from ..modeling import MTACLIP
from ..modeling.inference import AugmentedModel
from .distributed import broadcast_buffers, unwrap_model

logger = logging.getLogger(__name__)

Results = dict[str, Any]  # {task: {metric: value}}, or {dataset: {task: ...}} for several datasets


def evaluate(cfg: CfgNode, model: nn.Module, *, subfolder: str = "") -> Results:
    """Runs the model over every dataset of DATASETS.TEST.

    Where a dataset has other classes than the model, its names are the model's vocabulary while it is evaluated; see
    `unseen_classes` for those that count as unseen.

    Args:
        model: maps detectron2's dicts to `[{"sem_seg": ...}]` or `[{"labels": ...}]`; runs in eval mode.
        subfolder: of OUTPUT_DIR, for the evaluator's files.

    Returns:
        On the main process the evaluator's nested dict, or {dataset: dict} if there are several datasets; {} on the
        others.

    Raises:
        ValueError: DATASETS.TEST is empty, or a dataset has other classes, which this model cannot segment.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name at least one dataset to evaluate")
    check_test_classes(cfg, model)
    model = unwrap_model(model)  # the processes have unequal numbers of images; nothing may wait for another
    broadcast_buffers(model)
    results: Results = OrderedDict()
    for name in cfg.DATASETS.TEST:
        folder = Path(cfg.OUTPUT_DIR) / subfolder / (name if len(cfg.DATASETS.TEST) > 1 else "")
        evaluator = build_evaluator(cfg, name, str(folder))
        with inference_context(model), _classes_of(cfg, name, model):
            results[name] = inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
    if not comm.is_main_process():
        return {}
    if len(results) == 1:
        return next(iter(results.values()))
    summary = format_datasets({name: result["sem_seg"] for name, result in results.items()})
    logger.info("Evaluation of %d datasets, percent:\n%s", len(results), summary)
    return results


def check_test_classes(cfg: CfgNode, model: nn.Module) -> None:
    """Refuses a model that cannot segment the classes of a dataset in DATASETS.TEST.

    Args:
        model: see `evaluate`.

    Raises:
        ValueError: MTA-CLIP's linear classifier would have to name other classes than those of its training.
    """
    model = model.model if isinstance(model, AugmentedModel) else unwrap_model(model)
    if not isinstance(model, MTACLIP) or model.mask_classifier.classifier != "linear" or model.vocabulary:
        return  # names of a vocabulary are compared with text, whatever the classifier
    for name in cfg.DATASETS.TEST:
        if has_other_classes(cfg, names := _class_names(name)):
            raise ValueError(
                f"DATASETS.TEST: {name} has other classes than the model, or in another order ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}), and MODEL.MTA.CLASSIFIER linear knows only those of its "
                "training. Set it to text or ensemble, which need a model trained with text"
            )


@contextlib.contextmanager
def _classes_of(cfg: CfgNode, dataset: str, model: nn.Module) -> Iterator[None]:
    """Inside this context the model segments the classes of a dataset; afterwards, those of before."""
    names = _class_names(dataset)
    if not has_other_classes(cfg, names):
        yield
        return
    before = model.vocabulary
    model.set_vocabulary(names)
    try:
        yield
    finally:
        model.set_vocabulary(before)


def _class_names(dataset: str) -> list[str]:
    return list(MetadataCatalog.get(dataset).get("stuff_classes", ()))


def evaluate_with_augmentation(cfg: CfgNode, model: nn.Module) -> Results:
    """Like `evaluate`, but averages scores over the scales and flips of TEST.AUG; names of results end in _TTA.

    Args:
        model: a `SegmentationModel`.

    Raises:
        ValueError: TEST.AUG.MIN_SIZES is empty, or the model is of another kind; see also `evaluate`.
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
