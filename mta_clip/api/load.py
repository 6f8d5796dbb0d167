"""Loads a trained model, wherever it is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..engine.run_folder import FINAL_CHECKPOINT
from ..files import read_json
from ..predictor import build_trained_model
from .find import find_model
from .hub import download_folder, is_only_on_hub
from .saved_model import METRICS, WEIGHTS
from .segmenter import Segmenter


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    revision: str | None = None,
    overrides: Sequence[Any] = (),
) -> Segmenter:
    """Loads a trained model; no code from its files is run, and the log (level INFO) names the file of the weights.

    Args:
        source: a run's folder (its last checkpoint), a saved model's folder, a checkpoint file, a config file or name
            (with `weights`), or a repository "user/name" on the Hugging Face Hub.
        weights: checkpoint to take instead of the last one in the folder, e.g. its model_best.pth.
        device: such as "cpu" or "cuda:1"; None: a GPU if there is one.
        revision: of the repository on the Hub: branch, tag or commit.
        overrides: config keys and values, KEY, VALUE, KEY, VALUE, ... such as "INPUT.MIN_SIZE_TEST", 1024.
            MODEL.COMPILE is off unless it is named here.

    Raises:
        FileNotFoundError: the source, its config or its weights do not exist.
        CheckpointError: the weights do not fit the config, or the file is not safe to load.
        KeyError, ValueError: the config cannot be read, names no classes or contradicts the model's classes.json.
    """
    cfg = model_config(source, weights=weights, device=device, revision=revision, overrides=overrides)
    metrics = _metrics_of(Path(cfg.MODEL.WEIGHTS))
    model, cfg = build_trained_model(cfg)
    return Segmenter(model, cfg, metrics=metrics)


def model_config(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    revision: str | None = None,
    overrides: Sequence[Any] = (),
) -> CfgNode:
    """The config of a trained model, with its weights in MODEL.WEIGHTS; for arguments and errors see `load`."""
    if not weights and is_only_on_hub(str(source)):
        source = download_folder(str(source), revision=revision)
    defaults = ["MODEL.DEVICE", device or ("cuda" if torch.cuda.is_available() else "cpu"), "MODEL.COMPILE", False]
    return find_model(source, weights=weights, overrides=[*defaults, *overrides])


def load_segmenter(cfg: CfgNode, device: str) -> Segmenter:
    """The trained model of a config on a device; for errors see `build_trained_model`."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = device
    return Segmenter(*build_trained_model(cfg))


def _metrics_of(weights: Path) -> dict[str, float]:
    """The metrics beside the weights, if they are of these weights."""
    path = weights.parent / METRICS
    if weights.name not in (WEIGHTS, FINAL_CHECKPOINT) or not path.is_file():
        return {}
    return read_json(path)
