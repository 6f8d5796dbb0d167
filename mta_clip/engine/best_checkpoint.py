"""Keeps the weights with the best value of a metric in OUTPUT_DIR/model_best.pth.

detectron2's hook for this (0.6) forgets the best value when a run is resumed, and resumes from the best checkpoint
instead of the last one.
"""

import logging
import math
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict

from ..checkpoint import SegmentationCheckpointer, read_checkpoint
from .evaluate import Results
from .run_folder import BEST_CHECKPOINT

logger = logging.getLogger(__name__)


class BestCheckpoint:
    """Saves a model whenever an evaluation gives a higher value than all before.

    The file holds the weights, and in "best" the metric, its value and the number of iterations, so that a resumed run
    knows them. It is no checkpoint to resume from.

    Args:
        checkpointer: of the model and its folder.
        metric: as training_metrics.json names it: "sem_seg/mIoU", or "<dataset>/sem_seg/mIoU" if several datasets are
            evaluated. Higher is better.
    """

    def __init__(self, *, checkpointer: SegmentationCheckpointer, metric: str) -> None:
        self.checkpointer = checkpointer
        self.path = Path(checkpointer.save_dir) / BEST_CHECKPOINT
        self.metric = metric
        self.best = -math.inf

    def restore(self) -> None:
        """Takes over the best value of the run that is resumed, if it has one of this metric.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if not self.path.is_file():
            return
        saved = read_checkpoint(self.path).get("best", {})
        if saved.get("metric") != self.metric:
            logger.warning("%s was chosen by %s, not by %s; it counts no more", self.path, saved, self.metric)
            return
        self.best = saved["value"]
        logger.info("Best %s so far: %.4f after %d iterations", self.metric, self.best, saved["iterations"])

    def update(self, results: Results, iterations: int) -> None:
        """Saves the model if it is the best so far.

        Args:
            results: of an evaluation.
            iterations: that the model has been trained for.

        Raises:
            KeyError: the evaluation has no such metric; the message lists those it has.
            OSError: the file cannot be written.
        """
        values = flatten_results_dict(results)
        if self.metric not in values:
            means = [name for name in values if "IoU-" not in name and "ACC-" not in name]
            raise KeyError(
                f"TEST.KEEP_BEST is {self.metric!r}, but the evaluation gives {', '.join(means)} "
                f"(and {len(values) - len(means)} values of single classes)"
            )
        value = float(values[self.metric])
        if math.isnan(value) or value <= self.best:
            logger.info("%s is %.4f; the best stays %.4f", self.metric, value, self.best)
            return
        self.best = value
        logger.info("Best %s: %.4f after %d iterations", self.metric, value, iterations)
        best = {"metric": self.metric, "value": value, "iterations": iterations}
        self.checkpointer.save_weights(self.path.stem, best=best)


def build_best_checkpoint(cfg: CfgNode, checkpointer: SegmentationCheckpointer) -> BestCheckpoint | None:
    """What TEST.KEEP_BEST asks for; None if it is empty.

    Raises:
        ValueError: nothing is evaluated.
    """
    metric = cfg.TEST.KEEP_BEST
    if not metric:
        return None
    if not cfg.DATASETS.TEST:
        raise ValueError(f"TEST.KEEP_BEST is {metric!r}, but DATASETS.TEST is empty, so that nothing is evaluated")
    if cfg.TEST.EVAL_PERIOD <= 0:
        logger.warning(
            "TEST.KEEP_BEST %s has only the final model to choose from: TEST.EVAL_PERIOD is %d",
            metric,
            cfg.TEST.EVAL_PERIOD,
        )
    return BestCheckpoint(checkpointer=checkpointer, metric=metric)
