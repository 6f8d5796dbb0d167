"""From a config to a frozen one, with datasets registered, logs open and random generators seeded."""

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
from ..data import register_folders, with_classes
from ..data.build import check_registered
from ..files import complete_file
from .batch_scaling import scale_to_batch
from .launch import restarts
from .run_folder import clear_folder

logger = logging.getLogger(__name__)


def setup(cfg: CfgNode, *, training: bool, overwrite: bool = False) -> CfgNode:
    """Does everything that a process has to do before it builds a model.

    Args:
        training: the model is trained, not only evaluated.
        overwrite: delete what an earlier run left in OUTPUT_DIR, unless this is a restart of this run.

    Returns:
        A frozen copy of the config, with the names of its classes.

    Raises:
        FileNotFoundError, KeyError, ValueError: see `register_folders`, `check_registered` and `scale_to_batch`.
    """
    register_folders(cfg)
    for name in (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST):
        check_registered(name)
    cfg = with_classes(cfg)
    if comm.is_main_process():
        if overwrite and not restarts()[0]:
            clear_folder(cfg.OUTPUT_DIR)
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    comm.synchronize()
    for name in ("fvcore", "detectron2", "mta_clip"):
        opened = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        for handler in opened.handlers:
            if handler.stream is sys.stdout:  # tracebacks go to log.txt; commands show the message
                handler.addFilter(lambda record: not record.exc_info)
    logger.info("%s", _environment(cfg))
    logger.info("Command line: %s", " ".join(sys.argv))
    if training:
        scale_to_batch(cfg)
    cfg.freeze()
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and training
    return cfg


def save_config(cfg: CfgNode) -> None:
    """Saves the config as OUTPUT_DIR/config.yaml, in the main process."""
    if comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR) / "config.yaml"
        with complete_file(path) as part:
            part.write_text(cfg.dump())
        logger.info("Full config: %s", path)


def _environment(cfg: CfgNode) -> str:
    device = cfg.MODEL.DEVICE
    if torch.device(device).type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name()})"
    return (
        f"mta_clip {__version__}, detectron2 {detectron2.__version__}, torch {torch.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}; process {comm.get_rank()} of "
        f"{comm.get_world_size()} on {device}, {torch.get_num_threads()} thread(s)"
    )
