"""`mta-clip train`: trains the model that a config describes, then evaluates it."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .job import run_job, write_mean_iou
from .options import add_config_options, add_process_options, config_of, share_below_1
from .own_photos import VAL_SHARE, add_photo_options, has_photos, photos_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DESCRIPTION = """Trains the model that a config describes, then evaluates it.

  mta-clip train --data streets/                                                       your own photos
  mta-clip train --config-file shapes/mta_clip_tiny OUTPUT_DIR output/demo
  mta-clip train --config-file ade20k/mta_clip_rn50 --num-gpus 8 --max-restarts 3
  mta-clip train --config-file camvid/mta_clip_small --num-gpus 2 MODEL.DEVICE cpu   two processes on the CPU

The run owns OUTPUT_DIR: config, log, checkpoints and metrics are there. Ctrl-C and SIGTERM save a checkpoint, from
which --resume continues as if nothing had happened.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    own = add_photo_options(parser, "the config is then what trains on them (default: own/small)")
    help_share = "held out for evaluation if there is no val/ (default: %(default)s)"
    own.add_argument("--val-share", type=share_below_1, default=VAL_SHARE, metavar="SHARE", help=help_share)
    own.add_argument("--split-seed", type=int, default=0, metavar="N", help="chooses the photos to hold out (0)")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    earlier.add_argument("--overwrite", action="store_true", help="delete an earlier run in OUTPUT_DIR first")
    add_process_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    cfg = own_photos(args) if has_photos(args) else config_of(args)

    from ..engine.run_folder import claim_folder

    if args.machine_rank == 0:
        claim_folder(cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite, weights=cfg.MODEL.WEIGHTS)
    run_job(train, args, cfg, args.resume, args.overwrite)
    return 0


def own_photos(args: argparse.Namespace) -> "CfgNode":
    """The config that trains on the photos of --data or --images; says what it found and how to repeat the run.

    Raises:
        FileNotFoundError, ValueError: see `own_config`.
    """
    from ..engine.run_folder import BEST_CHECKPOINT, FINAL_CHECKPOINT

    args.config_file = args.config_file or "own/small"
    cfg = photos_config(config_of(args), args, val_share=args.val_share, seed=args.split_seed)
    if "OUTPUT_DIR" not in args.opts[::2]:
        cfg.OUTPUT_DIR = str(Path("output", Path(args.data or args.images).absolute().name))
    for entry in cfg.DATASETS.FOLDERS:
        listed = f", {len(entry['files'])} of its photos" if "files" in entry else ""
        logger.info("%s: %s%s", entry["name"], entry["image_dir"], listed)
    config = Path(cfg.OUTPUT_DIR, "config.yaml")
    logger.info("Config: %s, from %s", config, args.config_file)
    weights = config.with_name(BEST_CHECKPOINT if cfg.TEST.KEEP_BEST else FINAL_CHECKPOINT)
    logger.info("To use the model then: mta-clip predict --weights %s --input PHOTOS --output overlays", weights)
    logger.info("To repeat this run: mta-clip train --config-file %s OUTPUT_DIR %s_again", config, cfg.OUTPUT_DIR)
    return cfg


def train(cfg: "CfgNode", resume: bool, overwrite: bool) -> dict[str, Any]:
    """What every process runs.

    Returns:
        The results on the main process, {} on the others.
    """
    from ..engine.evaluate import evaluate_with_augmentation
    from ..engine.setup import save_config, setup
    from ..engine.trainer import Trainer

    cfg = setup(cfg, training=True, overwrite=overwrite)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    save_config(cfg)  # not earlier: a run that cannot start leaves the folder to the next try
    results = dict(trainer.train())
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        results.update(evaluate_with_augmentation(cfg, trainer.model))
    write_mean_iou(results)
    return results
