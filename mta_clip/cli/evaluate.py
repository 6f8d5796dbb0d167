"""`mta-clip evaluate`: measures a trained model on the datasets of DATASETS.TEST."""

import argparse
from typing import TYPE_CHECKING, Any

from .job import run_job, write_mean_iou
from .options import add_config_options, add_process_options, add_weights_option, trained_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DESCRIPTION = """Evaluates a trained model on the datasets of DATASETS.TEST.

  mta-clip evaluate --config-file output/demo                                        the model of a run
  mta-clip evaluate --weights model_final.pth DATASETS.TEST '("camvid_sem_seg_val",)'
  mta-clip evaluate --config-file camvid/mta_clip_small --weights model.pth TEST.AUG.ENABLED True

Metrics, table and pictures go to OUTPUT_DIR/eval/WEIGHTS/DATASET/, where WEIGHTS is the name of the checkpoint. The
files of the run stay as they are.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument("--resume", action="store_true", help="take the last checkpoint of OUTPUT_DIR")
    add_process_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    cfg = trained_config(args)

    from ..engine.run_folder import check_writable, evaluation_folder, last_checkpoint, newest_weights
    from ..engine.trained_model import require_weights

    if args.resume:
        cfg.MODEL.WEIGHTS = last_checkpoint(cfg.OUTPUT_DIR) or cfg.MODEL.WEIGHTS or newest_weights(cfg.OUTPUT_DIR)
    require_weights(cfg)
    cfg.OUTPUT_DIR = evaluation_folder(cfg)
    check_writable(cfg.OUTPUT_DIR, "the folder")
    run_job(evaluate_trained, args, cfg)
    return 0


def evaluate_trained(cfg: "CfgNode") -> dict[str, Any]:
    """What every process runs.

    Returns:
        The results on the main process, {} on the others.
    """
    from ..engine.evaluate import evaluate, evaluate_with_augmentation
    from ..engine.setup import save_config, setup
    from ..engine.trained_model import build_for_evaluation

    cfg = setup(cfg, training=False)
    model = build_for_evaluation(cfg)
    save_config(cfg)
    results = dict(evaluate(cfg, model))
    if cfg.TEST.AUG.ENABLED:
        results.update(evaluate_with_augmentation(cfg, model))
    write_mean_iou(results)
    return results
