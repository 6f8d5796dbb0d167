"""`mta-clip check`: reads every file of a dataset before a long training run does."""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .options import CONFIG_HELP
from .own_photos import VAL_SHARE, add_photo_options, has_photos, photos_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DESCRIPTION = """Reads every file of a dataset before a long training run does.

  mta-clip check ade20k_150_sem_seg_train
  mta-clip check garden_train --config-file garden.yaml     described in DATASETS.FOLDERS
  mta-clip check --data streets/                            your own photos, before `mta-clip train --data streets/`

Prints counts, sizes and a table of the classes, and draws the table to OUTPUT/NAME.png. The exit status is 1 if it
finds trouble: files that are missing, unreadable or do not fit together, label values out of range, or an ignore
label that covers nearly all pixels.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("name", nargs="?", default="", help="name of the dataset, as in DATASETS.TRAIN")
    help_config = f"{CONFIG_HELP}; whose DATASETS.FOLDERS describes the dataset, or that trains on it"
    parser.add_argument("--config-file", default="", metavar="CONFIG", help=help_config)
    parser.add_argument("--output", type=Path, default=Path("output/check"), help="folder for the picture")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    add_photo_options(parser, "instead of the name of a dataset; all photos outside a val/ folder are checked together")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 0, or 1 if there is trouble.

    Raises:
        ValueError: neither a dataset nor photos are named, or both.
        FileNotFoundError, KeyError, ValueError: the config cannot be read; see `load_config`.
        OSError: the picture cannot be written.
    """
    if bool(args.name) == has_photos(args):
        raise ValueError("name either a dataset, as in DATASETS.TRAIN, or your own photos with --data FOLDER")

    from ..config_loader import load_config
    from ..data import register_folders

    cfg = load_config(args.config_file, [])
    try:
        if has_photos(args):
            cfg = photos_config(cfg, args, val_share=0)
        register_folders(cfg)
    except (OSError, ValueError) as error:
        logger.error("TROUBLE: %s", error)
        return 1
    names = [args.name] if args.name else [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    status = max([check(cfg, name, args.output, args.workers) for name in names])
    if status == 0 and has_photos(args) and not cfg.DATASETS.TEST:
        say_what_is_held_out(names[0])
    return status


def say_what_is_held_out(name: str) -> None:
    """Says how many photos of a dataset, which has no val folder beside it, training will keep for evaluation."""
    from detectron2.data import DatasetCatalog

    from ..data.own_folder import held_out_count

    photos = len(DatasetCatalog.get(name))
    if photos > 1:
        count = held_out_count(photos, VAL_SHARE)
        logger.info("Training will hold out %d of these %d photos for evaluation (--val-share).", count, photos)


def check(cfg: "CfgNode", name: str, output: Path, workers: int) -> int:
    """Checks one dataset, says what it found and draws it to `output`/`name`.png.

    Returns:
        The exit status: 0, or 1 if there is trouble.

    Raises:
        OSError: the picture cannot be written.
    """
    from detectron2.data import MetadataCatalog

    from ..data.check import check_dataset, config_troubles, draw_findings, format_findings
    from ..files import complete_file

    try:
        findings = check_dataset(name, workers=workers)
    except (KeyError, OSError, ValueError) as error:
        logger.error("TROUBLE: %s", error.args[0] if isinstance(error, KeyError) else error)
        return 1
    logger.info("%s: %s", name, format_findings(findings))
    picture = output / f"{name}.png"
    figure = draw_findings(findings, MetadataCatalog.get(name).stuff_colors, name)
    with complete_file(picture) as part:
        figure.savefig(part, format="png", dpi=100)
    logger.info("Picture: %s", picture)
    for note in findings.notes():
        logger.info("Note: %s", note)
    troubles = config_troubles(cfg, name) + findings.troubles()
    for trouble in troubles:
        logger.error("TROUBLE: %s", trouble)
    if advice := findings.advice():
        logger.info("Advice: %s", advice)
    logger.info("%s", f"Troubles found: {len(troubles)}." if troubles else "No trouble found.")
    return 1 if troubles else 0
