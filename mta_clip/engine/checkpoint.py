"""Weights for an evaluation: nothing that was trained may be missing."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import CheckpointError, SegmentationCheckpointer


def load_for_evaluation(cfg: CfgNode, model: nn.Module, *, resume: bool) -> None:
    """Loads MODEL.WEIGHTS, or with `resume` the last checkpoint of OUTPUT_DIR, into a model that is to be measured.

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


class _CompleteCheckpointer(SegmentationCheckpointer):
    """Insists on every trainable parameter; frozen ones have their values from elsewhere, e.g. CLIP's text tower."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        missing = [name for name in incompatible.missing_keys if name in trainable]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CheckpointError(
                f"the checkpoint lacks {len(missing)} trained parameters of the model: {shown}. "
                "Evaluate with the config it was trained with (config.yaml in its folder)"
            )
        return incompatible
