#!/usr/bin/env python
"""Trains or evaluates the model that a config describes.

python train_net.py --config-file configs/shapes/mta_clip_tiny.yaml              train, then evaluate
python train_net.py --config-file ... --resume                                   continue from the last checkpoint
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model.pth        evaluate
python train_net.py --config-file ... --num-gpus 8                               train on eight GPUs
python train_net.py --config-file ... --num-gpus 2 MODEL.DEVICE cpu              train in two processes on the CPU
python train_net.py --config-file ... --num-gpus 8 --max-restarts 3              resume up to 3 times after a failure
torchrun --nproc-per-node 8 train_net.py --config-file ...                       train on eight GPUs with torchrun
"""

import argparse

from mta_clip.config_loader import load_config
from mta_clip.engine.evaluate import Results, evaluate, evaluate_with_augmentation, mean_iou
from mta_clip.engine.launch import launch
from mta_clip.engine.setup import argument_parser, setup
from mta_clip.engine.trained_model import build_for_evaluation
from mta_clip.engine.trainer import Trainer


def main(args: argparse.Namespace) -> Results:
    """What every process runs.

    Returns:
        The results on the main process, {} on the others.
    """
    cfg = setup(args)
    if args.eval_only:
        model = build_for_evaluation(cfg, resume=args.resume, build=Trainer.build_model)
        results = dict(evaluate(cfg, model))
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = dict(trainer.train())
        model = trainer.model
    if cfg.TEST.AUG.ENABLED and cfg.DATASETS.TEST:
        results.update(evaluate_with_augmentation(cfg, model))
    if (value := mean_iou(results)) is not None:
        print(f"mIoU {value:.2f}", flush=True)  # noqa: T201  (the result of the command, for people and scripts)
    return results


def run(arguments: argparse.Namespace) -> Results:
    """Runs `main` in as many processes as the arguments say.

    Raises:
        ValueError, RuntimeError: see `launch`.
    """
    return launch(
        main,
        processes_per_machine=arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        device=load_config(arguments.config_file, arguments.opts).MODEL.DEVICE,
        max_restarts=arguments.max_restarts,
        args=(arguments,),
    )


if __name__ == "__main__":
    run(argument_parser(epilog=__doc__).parse_args())
