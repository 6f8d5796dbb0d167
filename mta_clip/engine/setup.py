"""From the command line to a frozen config, with datasets registered, logs open and random generators seeded."""

import argparse
import logging
import platform
import sys
from pathlib import Path

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from .. import __version__
from ..config_loader import load_config
from ..data import register_folders, with_classes
from .batch_scaling import scale_to_batch

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace, *, training: bool) -> CfgNode:
    """Does everything that a process has to do before it builds a model.

    Args:
        args: with `config_file` and `opts`; see `load_config`.
        training: the model is trained, not only evaluated.

    Returns:
        The frozen config, with the names of its classes; the main process has saved it as OUTPUT_DIR/config.yaml.

    Raises:
        FileNotFoundError, KeyError, ValueError: see `load_config`, `register_folders` and `scale_to_batch`.
    """
    cfg = load_config(args.config_file, args.opts)
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    comm.synchronize()
    for name in ("fvcore", "detectron2", "mta_clip"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    logger.info("%s", _environment(cfg))
    logger.info("Command line: %s", " ".join(sys.argv))
    register_folders(cfg)
    cfg = with_classes(cfg)
    if training:
        scale_to_batch(cfg)
    cfg.freeze()
    if comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR) / "config.yaml"
        path.write_text(cfg.dump())
        logger.info("Full config: %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and training
    return cfg


def _environment(cfg: CfgNode) -> str:
    device = cfg.MODEL.DEVICE
    if torch.device(device).type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name()})"
    return (
        f"mta_clip {__version__}, detectron2 {detectron2.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}; process {comm.get_rank()} of "
        f"{comm.get_world_size()} on {device}, {torch.get_num_threads()} thread(s)"
    )
