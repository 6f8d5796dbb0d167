"""`mta-clip evaluate`: measures a trained model on the datasets of DATASETS.TEST."""

import argparse

from ..engine.evaluate import Results, evaluate, evaluate_with_augmentation
from ..engine.setup import setup
from ..engine.trained_model import build_for_evaluation
from .job import print_mean_iou, run_job
from .options import add_config_options, add_process_options

DESCRIPTION = """Evaluates a trained model on the datasets of DATASETS.TEST.

mta-clip evaluate --config-file configs/shapes/mta_clip_tiny.yaml MODEL.WEIGHTS output/demo/model_final.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    parser.add_argument("--resume", action="store_true", help="evaluate the last checkpoint of OUTPUT_DIR")
    add_process_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    run_job(evaluate_trained, args)
    return 0


def evaluate_trained(args: argparse.Namespace) -> Results:
    """What every process runs.

    Returns:
        The results on the main process, {} on the others.
    """
    cfg = setup(args, training=False)
    model = build_for_evaluation(cfg, resume=args.resume)
    results = dict(evaluate(cfg, model))
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        results.update(evaluate_with_augmentation(cfg, model))
    print_mean_iou(results)
    return results
