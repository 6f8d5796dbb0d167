"""From the command line to a frozen config with datasets registered, logs open and randomness seeded."""

import argparse
import difflib
import logging
import platform
import sys
from pathlib import Path

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from .. import __version__
from ..config import get_cfg
from ..data import register_folders
from .batch_scaling import scale_to_batch

logger = logging.getLogger(__name__)


def argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """detectron2's parser and --max-restarts. --num-gpus counts processes if MODEL.DEVICE is cpu."""
    parser = default_argument_parser(epilog)
    parser.set_defaults(dist_url="auto")  # a free port, so that two runs on one machine do not meet
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="how often a run that failed, or of which a process was killed, starts again from its last checkpoint",
    )
    return parser


def load_config(config_file: str, overrides: list[str]) -> CfgNode:
    """Defaults, then a YAML file, then KEY VALUE pairs.

    YAML is loaded safely: a file cannot execute code.

    Raises:
        FileNotFoundError: no such config file.
        KeyError: unknown key; the message names the closest known ones.
        ValueError: a value of the wrong type, or a key without value.
    """
    cfg = get_cfg()
    if config_file and not Path(config_file).is_file():
        raise FileNotFoundError(f"config file {config_file} does not exist")
    if len(overrides) % 2:
        raise ValueError(
            f"overrides come as KEY VALUE pairs, {overrides[-1]!r} has no partner in: {' '.join(overrides)}"
        )
    try:
        if config_file:
            # Not merge_from_file, which guesses and upgrades versions of Detectron's configs.
            cfg.merge_from_other_cfg(CfgNode(CfgNode.load_yaml_with_base(config_file, allow_unsafe=False)))
        cfg.merge_from_list(overrides)
    except KeyError as error:
        raise KeyError(_explain_unknown_key(str(error.args[0]), cfg, config_file)) from error
    except AssertionError as error:  # how yacs reports an unknown or malformed key among the overrides
        raise KeyError(_explain_unknown_key(str(error), cfg, config_file)) from error
    return cfg


def _explain_unknown_key(message: str, cfg: CfgNode, config_file: str) -> str:
    key = message.rsplit(": ", 1)[-1].strip()
    known = _all_keys(cfg)
    close = difflib.get_close_matches(key, known, n=3)
    close = close or [name for name in known if name.split(".")[-1] == key.split(".")[-1]][:3]
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return f"unknown config key {key} (in {config_file or 'the defaults'} or the overrides){hint}"


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys += _all_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [f"{prefix}{name}"]
    return keys


def setup(args: argparse.Namespace) -> CfgNode:
    """Everything a process does before it builds a model.

    Args:
        args: of `argument_parser`.

    Returns:
        The frozen config; the main process has saved it as OUTPUT_DIR/config.yaml.
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
    if not args.eval_only:
        scale_to_batch(cfg)
    cfg.freeze()
    if comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR) / "config.yaml"
        path.write_text(cfg.dump())
        logger.info("Full config: %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
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
