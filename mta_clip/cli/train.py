"""`mta-clip train`: trains the model that a config describes, then evaluates it."""

import argparse
from typing import TYPE_CHECKING, Any

from .job import print_mean_iou, run_job
from .options import add_config_options, add_process_options, config_of

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DESCRIPTION = """Trains the model that a config describes, then evaluates it.

  mta-clip train --config-file shapes/mta_clip_tiny OUTPUT_DIR output/demo
  mta-clip train --config-file ade20k/mta_clip_rn50 --num-gpus 8 --max-restarts 3
  mta-clip train --config-file camvid/mta_clip_small --num-gpus 2 MODEL.DEVICE cpu     two processes on the CPU

The run owns OUTPUT_DIR: config, log, checkpoints and metrics are there. Ctrl-C and SIGTERM save a checkpoint, from
which --resume continues as if nothing had happened.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    earlier.add_argument("--overwrite", action="store_true", help="delete an earlier run in OUTPUT_DIR first")
    add_process_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from ..engine.run_folder import claim_folder

    cfg = config_of(args)
    if args.machine_rank == 0:
        claim_folder(cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite, weights=cfg.MODEL.WEIGHTS)
    run_job(train, args, cfg, args.resume, args.overwrite)
    return 0


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
    print_mean_iou(results)
    return results
