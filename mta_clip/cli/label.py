"""`mta-clip label`: labels any number of images, in several processes or on a Ray cluster."""

import argparse
import functools
import logging
import os

from ..labelling.index import FAILED, parquet
from .options import (
    add_config_options,
    add_names_option,
    add_other_options,
    add_weights_option,
    other_of,
    positive,
    trained_config,
)

DESCRIPTION = """Labels any number of images, in several processes or on a cluster.

  mta-clip label --config-file output/demo --input photos/ --output labelled --workers 2
  mta-clip label --weights model_final.pth --input 's3://bucket/photos/**/*.jpg' --output labelled
  mta-clip label ... --input list.txt --format webdataset        one file of label maps per block
  RAY_ADDRESS=auto mta-clip label ... --engine ray --workers 64  on the Ray cluster of this machine

Writes label maps (pixel value = class index) below OUTPUT/labels, and OUTPUT/index.parquet with a row per image: path,
label, height, width, shares of classes, mean confidence, status and error. The same command again, after an
interruption or with more images, does what is missing. An image that fails is a row, and no error. docs/scaling.md says
more.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    add_weights_option(parser)
    help_input = "folder, glob pattern, or text file with a path or URL per line; local, or a URL such as s3://..."
    parser.add_argument("--input", required=True, help=help_input)
    parser.add_argument("--output", required=True, help="folder of this job; with Ray, one that all machines see")
    add_names_option(parser)
    add_other_options(parser)
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="default: local")
    help_workers = "processes or Ray actors, each with a model (default: one; local, on GPUs: one for each)"
    parser.add_argument("--workers", type=positive, metavar="N", help=help_workers)
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images per forward (default: 4)")
    help_threads = "per worker, which read and write files (default: 2; more for distant storage)"
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help=help_threads)
    help_format = "PNG files, or one Parquet or WebDataset file per block (default: png)"
    parser.add_argument("--format", choices=("png", "parquet", "webdataset"), default="png", help=help_format)
    help_block = "images that are done or lost together, on average (default: 256)"
    parser.add_argument("--block-size", type=positive, default=256, metavar="N", help=help_block)
    help_retry = "also repeat blocks in which an image failed"
    parser.add_argument("--retry-failed", action="store_true", help=help_retry)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ValueError: see `trained_config`, `check_devices` and `label_images`; which raise other errors, too.
    """
    parquet()
    cfg, other = trained_config(args), other_of(args)

    import torch

    from ..api.load import load_segmenter
    from ..engine.devices import check_devices
    from ..engine.run_folder import check_writable
    from ..engine.trained_model import require_weights
    from ..labelling.job import INDEX, Engine, label_images, settings_of
    from ..labelling.worker import Task

    require_weights(cfg)
    device = torch.device(cfg.MODEL.DEVICE).type
    workers = args.workers or (torch.cuda.device_count() if device == "cuda" and args.engine == "local" else 1)
    if args.engine == "local":
        check_devices(cfg.MODEL.DEVICE, workers)
    check_writable(args.output, "--output")
    names = tuple(args.names) if args.names else None
    task = Task(
        load=functools.partial(load_segmenter, cfg),
        output=os.path.abspath(args.output),
        names=names,
        other=other,
        format=args.format,
        batch_size=args.batch_size,
        threads=args.threads,
    )
    total = label_images(
        args.input,
        task,
        Engine(args.engine, workers, device),
        settings=settings_of(cfg, names=args.names, other=other and [*other], format=args.format),
        block_size=args.block_size,
        retry_failed=args.retry_failed,
    )
    index = os.path.join(args.output, INDEX)
    logger.info("%d of %d images labelled; the index is %s", total.images - total.failed, total.images, index)
    if total.failed:
        logger.warning('Images that failed: %d; their rows, with status "%s", say why', total.failed, FAILED)
    return 0
