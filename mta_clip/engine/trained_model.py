"""Trained models for an evaluation or a demo: nothing may be missing."""

import logging
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..checkpoint import CheckpointError, SegmentationCheckpointer, is_shorter_table

logger = logging.getLogger(__name__)


def build_for_evaluation(
    cfg: CfgNode, *, resume: bool = False, build: Callable[[CfgNode], nn.Module] = build_model
) -> nn.Module:
    """Builds the model of a config with the weights of `load_for_evaluation`.

    Checkpoints of this project also hold the frozen towers, so CLIP's own weights (MODEL.CLIP.PRETRAINED) are read,
    or fetched, only for a checkpoint that lacks some of them, such as one converted from another project.

    Args:
        resume: see `load_for_evaluation`.
        build: makes the model.

    Raises:
        CheckpointError: the checkpoint lacks frozen parameters, and MODEL.CLIP.PRETRAINED is empty; see also
            `load_for_evaluation`.
    """
    without_clip = cfg.clone()
    without_clip.defrost()
    without_clip.MODEL.CLIP.PRETRAINED = ""
    model = build(without_clip)
    lacking = load_for_evaluation(cfg, model, resume=resume)
    if not lacking:
        return model
    shown = f"{len(lacking)} parameters that were not trained: {_first(lacking)}"
    if not cfg.MODEL.CLIP.PRETRAINED:
        raise CheckpointError(
            f"the checkpoint lacks, wholly or partly, {shown}. Set MODEL.CLIP.PRETRAINED to the CLIP weights it was "
            "trained with"
        )
    logger.info("From MODEL.CLIP.PRETRAINED, as the checkpoint lacks them wholly or partly: %s", shown)
    model = build(cfg)
    load_for_evaluation(cfg, model, resume=resume)
    return model


def load_for_evaluation(cfg: CfgNode, model: nn.Module, *, resume: bool) -> list[str]:
    """Loads MODEL.WEIGHTS, or with `resume` the last checkpoint of OUTPUT_DIR, into a model that is to be measured.

    Returns:
        Names of frozen parameters that the file lacks, or has fewer rows of; they keep their values.

    Raises:
        ValueError: no weights are named.
        FileNotFoundError: no such file.
        CheckpointError: the file does not fit, or lacks a trainable parameter of the model, which would then be
            measured at its random initial value.
    """
    checkpointer = _CompleteCheckpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ValueError(
            "--eval-only needs weights: set MODEL.WEIGHTS to a checkpoint, or add --resume to take the last one of "
            f"OUTPUT_DIR ({cfg.OUTPUT_DIR})"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return checkpointer.lacking


class _CompleteCheckpointer(SegmentationCheckpointer):
    """Insists on every trainable parameter and notes in `lacking` which frozen ones are not in the file."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        own = self.model.state_dict()
        shorter = [name for name, value in checkpoint["model"].items() if is_shorter_table(name, value, own)]
        incompatible = super()._load_model(checkpoint)
        missing = set(incompatible.missing_keys)
        trainable = [name for name, p in self.model.named_parameters() if p.requires_grad and name in missing]
        if trainable:
            raise CheckpointError(
                f"the checkpoint lacks {len(trainable)} trained parameters of the model: {_first(trainable)}. "
                "Evaluate with the config it was trained with (config.yaml in its folder)"
            )
        self.lacking = [name for name, _ in self.model.named_parameters() if name in missing or name in shorter]
        return incompatible


def _first(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
