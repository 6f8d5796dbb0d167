"""Runs a command in as many processes as its options say."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .console import write_result

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def run_job(work: Callable[..., Any], args: argparse.Namespace, cfg: "CfgNode", *more: object) -> None:
    """Runs `work(cfg, *more)` in every process.

    Args:
        args: with the options of `add_process_options`.

    Raises:
        ValueError, ProcessError, Interrupted: see `launch`.
    """
    from ..engine.launch import launch

    launch(
        work,
        processes_per_machine=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=cfg.MODEL.DEVICE,
        max_restarts=args.max_restarts,
        args=(cfg, *more),
    )


def write_mean_iou(results: dict[str, Any]) -> None:
    """Writes the mIoU, if there is one, as the last line of a command: "mIoU 48.38"."""
    from ..engine.evaluate import mean_iou

    if (value := mean_iou(results)) is not None:
        write_result(f"mIoU {value:.2f}")
