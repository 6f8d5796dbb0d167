"""Runs a command in as many processes as its options say."""

import argparse
from collections.abc import Callable

from ..config_loader import load_config
from ..engine.evaluate import Results, mean_iou
from ..engine.launch import launch


def run_job(work: Callable[[argparse.Namespace], Results], args: argparse.Namespace) -> Results:
    """Runs `work(args)` in every process.

    Args:
        args: with the options of `add_config_options` and `add_process_options`.

    Returns:
        The results on the main process, {} on the others.

    Raises:
        ValueError, RuntimeError: see `launch`.
    """
    return launch(
        work,
        processes_per_machine=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=load_config(args.config_file, args.opts).MODEL.DEVICE,
        max_restarts=args.max_restarts,
        args=(args,),
    )


def print_mean_iou(results: Results) -> None:
    """Prints the mIoU, if there is one, as the last line of a command: "mIoU 48.38"."""
    if (value := mean_iou(results)) is not None:
        print(f"mIoU {value:.2f}", flush=True)  # noqa: T201  (the result of the command, for people and scripts)
