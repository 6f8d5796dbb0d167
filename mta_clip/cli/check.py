"""`mta-clip check`: reads every file of a dataset before a long training run does."""

import argparse
import logging
import os
from pathlib import Path

from .options import CONFIG_HELP

DESCRIPTION = """Reads every file of a dataset before a long training run does.

  mta-clip check ade20k_150_sem_seg_train
  mta-clip check garden_train --config-file garden.yaml     described in DATASETS.FOLDERS

Prints counts, sizes and a table of the classes, and draws the table to OUTPUT/NAME.png. The exit status is 1 if it
finds trouble: files that are missing, unreadable or do not fit together, label values out of range, or an ignore
label that covers nearly all pixels.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("name", help="name of the dataset, as in DATASETS.TRAIN")
    help_config = f"{CONFIG_HELP}; whose DATASETS.FOLDERS describes the dataset, or that trains on it"
    parser.add_argument("--config-file", default="", metavar="CONFIG", help=help_config)
    parser.add_argument("--output", type=Path, default=Path("output/check"), help="folder for the picture")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 0, or 1 if there is trouble."""
    from detectron2.data import MetadataCatalog

    from ..config_loader import load_config
    from ..data import register_folders
    from ..data.check import check_dataset, config_troubles, draw_findings, format_findings
    from ..files import complete_file

    cfg = load_config(args.config_file, [])
    try:
        register_folders(cfg)
        findings = check_dataset(args.name, workers=args.workers)
    except (KeyError, OSError, ValueError) as error:
        logger.error("TROUBLE: %s", error.args[0] if isinstance(error, KeyError) else error)
        return 1
    logger.info("%s", format_findings(findings))
    picture = args.output / f"{args.name}.png"
    figure = draw_findings(findings, MetadataCatalog.get(args.name).stuff_colors, args.name)
    with complete_file(picture) as part:
        figure.savefig(part, format="png", dpi=100)
    logger.info("Picture: %s", picture)
    for note in findings.notes():
        logger.info("Note: %s", note)
    troubles = config_troubles(cfg, args.name) + findings.troubles()
    for trouble in troubles:
        logger.error("TROUBLE: %s", trouble)
    logger.info("%s", f"{len(troubles)} troubles" if troubles else "No trouble found.")
    return 1 if troubles else 0
