"""`mta-clip train`: trains the model that a config describes, then evaluates it."""

import argparse

from ..engine.evaluate import Results, evaluate_with_augmentation
from ..engine.setup import setup
from ..engine.trainer import Trainer
from .job import print_mean_iou, run_job
from .options import add_config_options, add_process_options

DESCRIPTION = """Trains the model that a config describes, then evaluates it.

mta-clip train --config-file configs/shapes/mta_clip_tiny.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    add_process_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    run_job(train, args)
    return 0


def train(args: argparse.Namespace) -> Results:
    """What every process runs.

    Returns:
        The results on the main process, {} on the others.
    """
    cfg = setup(args, training=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = dict(trainer.train())
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        results.update(evaluate_with_augmentation(cfg, trainer.model))
    print_mean_iou(results)
    return results
