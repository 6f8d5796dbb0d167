"""Finds the config and the weights of a trained model, for `mta_clip.load` and for commands."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..config_loader import load_config
from ..config_names import CONFIG_SUFFIXES
from ..engine.run_folder import BEST_CHECKPOINT, newest_weights
from ..engine.trained_model import saved_config
from .saved_model import CONFIG, WEIGHTS, check_classes, is_saved_model

logger = logging.getLogger(__name__)


def find_model(
    source: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None, overrides: Sequence[Any] = ()
) -> CfgNode:
    """The config of a trained model, with its weights in MODEL.WEIGHTS.

    Args:
        source: a run's folder (its last checkpoint), a saved model's folder, a checkpoint (its config is in the file or
            beside it), or a config file or name.
        weights: checkpoint to take instead of the one in the folder or the config, such as a run's model_best.pth.
        overrides: of the config: KEY, VALUE, KEY, VALUE, ...; MODEL.WEIGHTS among them counts if there is no `weights`.

    Returns:
        The config; MODEL.WEIGHTS is empty if `source` is a config that names none.

    Raises:
        FileNotFoundError: the source, its config or its weights do not exist.
        CheckpointError: the source is no checkpoint, or not safe to load.
        KeyError, ValueError: see `load_config` and `check_classes`.
    """
    path, overrides = Path(source), list(overrides)
    named = weights or "MODEL.WEIGHTS" in overrides[::2]
    if path.is_file() and path.suffix not in CONFIG_SUFFIXES and not named:
        cfg, weights = config_of_checkpoint(path, overrides), path
        if cfg is None:
            raise FileNotFoundError(
                f"{path} holds no config, and there is no {CONFIG} beside it: name the config it was trained with, by "
                f"--config-file or in Python by load(CONFIG, weights={str(path)!r})"
            )
    else:
        cfg = load_config(str(source), overrides)
        if is_saved_model(path):
            check_classes(path, load_config(str(source), []))
        if path.is_dir() and not named:
            weights = path / WEIGHTS if (path / WEIGHTS).is_file() else _last_weights(path)
    if weights:
        cfg.MODEL.WEIGHTS = str(weights)
    return cfg


def _last_weights(run: Path) -> str:
    """The weights of a run's folder, see `newest_weights`; tells of the best ones, if they were kept."""
    last = newest_weights(str(run))
    if (best := run / BEST_CHECKPOINT).is_file():
        logger.info("%s is the last checkpoint; for the best one, name %s", last, best)
    return last


def config_of_checkpoint(path: str | os.PathLike[str], overrides: Sequence[Any] = ()) -> CfgNode | None:
    """The config inside a checkpoint, else the config.yaml beside it; None if there is neither.

    Raises:
        FileNotFoundError, CheckpointError, KeyError, ValueError: see `saved_config` and `load_config`.
    """
    if (cfg := saved_config(str(path), overrides)) is not None:
        return cfg
    beside = Path(path).parent / CONFIG
    return load_config(str(beside), list(overrides)) if beside.is_file() else None
