"""Finds the config and the weights of a model, wherever they are."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..config_loader import load_config
from ..config_names import config_names
from ..engine.trained_model import saved_config
from ..predictor import build_trained_model
from .hub import download_folder, is_repo_id
from .saved_model import CONFIG, METRICS, WEIGHTS, check_classes, is_saved_model
from .segmenter import Segmenter

CONFIG_SUFFIXES = (".yaml", ".yml")
LAST_CHECKPOINT = "last_checkpoint"  # holds the name of a run's newest checkpoint
FINAL_CHECKPOINT = "model_final.pth"  # that metrics.json is about


def load(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    revision: str | None = None,
    overrides: Sequence[Any] = (),
) -> Segmenter:
    """Loads a trained model; no code from its files is run.

    Args:
        source: a run's folder (its last checkpoint), a saved model's folder, a checkpoint file, a config file or name
            (with `weights`), or a repository "user/name" on the Hugging Face Hub.
        weights: checkpoint to take instead of the one in the folder, e.g. its model_best.pth.
        device: such as "cpu" or "cuda:1"; None: a GPU if there is one.
        revision: of the repository on the Hub: branch, tag or commit.
        overrides: config keys and values, KEY, VALUE, KEY, VALUE, ... such as "INPUT.MIN_SIZE_TEST", 1024.
            MODEL.COMPILE is off unless it is named here.

    Raises:
        FileNotFoundError: the source, its config or its weights do not exist.
        CheckpointError: the weights do not fit the config, or the file is not safe to load.
        KeyError, ValueError: the config cannot be read, names no classes or contradicts the model's classes.json.
    """
    path = Path(source)
    is_config = path.suffix in CONFIG_SUFFIXES or str(source) in config_names()
    if not path.exists() and weights is None and not is_config and is_repo_id(str(source)):
        path = download_folder(str(source), revision=revision)
    if path.is_dir():
        cfg = load_config(str(_existing(path / CONFIG)), [])
        if is_saved_model(path):
            check_classes(path, cfg)
        weights = weights or _weights_in(path)
    elif weights is not None or is_config:
        cfg = load_config(str(source), [])
        weights = weights or cfg.MODEL.WEIGHTS
        if not weights:
            raise ValueError(f"{source} is a config without weights: name them, load({str(source)!r}, weights=...)")
    else:
        cfg, weights = _config_of(_existing(path)), path
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg.MODEL.COMPILE = False
    cfg.merge_from_list(list(overrides))
    model, cfg = build_trained_model(cfg)
    return Segmenter(model, cfg, metrics=_metrics_of(Path(weights)))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. A model is a run's folder (with config.yaml), a saved model, a checkpoint file, a "
            'config with weights=..., or a repository "user/name" on the Hugging Face Hub'
        )
    return path


def _weights_in(folder: Path) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    pointer = folder / LAST_CHECKPOINT
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else FINAL_CHECKPOINT
    return _existing(folder / name)


def _config_of(checkpoint: Path) -> CfgNode:
    """The config inside a checkpoint, or else the one beside it."""
    if (cfg := saved_config(str(checkpoint))) is not None:
        return cfg
    beside = checkpoint.parent / CONFIG
    if not beside.is_file():
        raise FileNotFoundError(
            f"{checkpoint} holds no config, and there is no {CONFIG} beside it: name the config it was trained with, "
            f"load(CONFIG, weights={str(checkpoint)!r})"
        )
    return load_config(str(beside), [])


def _metrics_of(weights: Path) -> dict[str, float]:
    """The metrics beside the weights, if they are of these weights."""
    path = weights.parent / METRICS
    if weights.name not in (WEIGHTS, FINAL_CHECKPOINT) or not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))
