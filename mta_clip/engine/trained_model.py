"""Builds trained models for evaluation and demos, and makes sure that no trained parameter is missing."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..checkpoint import CheckpointError, SegmentationCheckpointer, is_shorter_table, read_checkpoint
from ..config_loader import parse_config
from ..data import register_folders, with_classes, with_classes_of
from ..modeling import SegmentationModel
from ..modeling.clip.text_towers import RANDOM, has_own_weights

logger = logging.getLogger(__name__)


def saved_config(weights: str, overrides: Sequence[Any] = ()) -> CfgNode | None:
    """The config that a checkpoint of this project was trained with; None if the file has none.

    Args:
        overrides: of the config; KEY, VALUE, KEY, VALUE, ...

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is not a checkpoint, or not safe to load.
        KeyError, ValueError: its config cannot be read; see `parse_config`.
    """
    content = read_checkpoint(weights)
    text = content.get("config") if isinstance(content, Mapping) else None
    if not (isinstance(text, str) and text):
        return None
    return parse_config(text, where=f"the config in {weights}", overrides=overrides)


def with_trained_classes(cfg: CfgNode) -> CfgNode:
    """A copy of a config with the classes of the model in MODEL.WEIGHTS, which need not be those of a dataset at hand.

    They are taken from the config itself, else from the checkpoint, else from the training dataset.

    Raises:
        ValueError, KeyError, FileNotFoundError, CheckpointError: see `saved_config`, `register_folders` and
            `with_classes`.
    """
    if cfg.MODEL.PROMPT.CLASS_NAMES:
        return with_classes(cfg)
    if trained := saved_config(cfg.MODEL.WEIGHTS):
        return with_classes_of(cfg, trained)
    register_folders(cfg)
    return with_classes(cfg)


def require_weights(cfg: CfgNode) -> None:
    """Raises a ValueError if MODEL.WEIGHTS is empty."""
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty: name a trained model, with --weights (in Python weights=...), in the config, or "
            "by the folder of its run"
        )


def without_clip_weights(cfg: CfgNode) -> CfgNode:
    """A copy of a config whose model is built without reading or downloading the weights of CLIP's towers."""
    cfg = cfg.clone()
    cfg.defrost()
    clip = cfg.MODEL.CLIP
    clip.PRETRAINED = clip.IMAGE_PRETRAINED = ""
    clip.TEXT_PRETRAINED = RANDOM if has_own_weights(clip.TEXT_NAME) else ""
    return cfg


def build_for_evaluation(cfg: CfgNode) -> SegmentationModel:
    """Builds the model of a config with the weights of `load_for_evaluation`.

    Checkpoints of this project also hold the frozen towers, so CLIP's own weights (MODEL.CLIP.*PRETRAINED) are read or
    downloaded only if the checkpoint lacks some of them, as one converted from another project may.

    Returns:
        The model, on MODEL.DEVICE.

    Raises:
        CheckpointError: the checkpoint lacks frozen parameters, and MODEL.CLIP.*PRETRAINED are empty.
        ValueError, FileNotFoundError, CheckpointError: see `load_for_evaluation`.
    """
    model = build_model(without_clip_weights(cfg))
    lacking = load_for_evaluation(cfg, model)
    if not lacking:
        return model
    shown = f"{len(lacking)} parameters that were not trained: {_first(lacking)}"
    clip = cfg.MODEL.CLIP
    own = has_own_weights(clip.TEXT_NAME) and clip.TEXT_PRETRAINED != RANDOM
    if not (clip.PRETRAINED or clip.IMAGE_PRETRAINED or clip.TEXT_PRETRAINED or own):
        raise CheckpointError(
            f"the checkpoint lacks, wholly or partly, {shown}. Set MODEL.CLIP.PRETRAINED (IMAGE_PRETRAINED, "
            "TEXT_PRETRAINED for a tower of its own) to the weights it was trained with"
        )
    logger.info("From MODEL.CLIP.*PRETRAINED, as the checkpoint lacks them wholly or partly: %s", shown)
    model = build_model(cfg)
    load_for_evaluation(cfg, model)
    return model


def load_for_evaluation(cfg: CfgNode, model: nn.Module) -> list[str]:
    """Loads MODEL.WEIGHTS into a model that is to be evaluated.

    Returns:
        Names of frozen parameters that the file does not have, or has with fewer rows; these parameters (rows) keep
        their values.

    Raises:
        ValueError: MODEL.WEIGHTS is empty.
        FileNotFoundError: the file does not exist.
        CheckpointError: the file does not fit the model, or lacks a trainable parameter, which would then keep its
            random initial value.
    """
    require_weights(cfg)
    checkpointer = _CompleteCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    return checkpointer.lacking


class _CompleteCheckpointer(SegmentationCheckpointer):
    """Requires every trainable parameter, and lists in `lacking` the frozen ones that are not in the file."""

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
