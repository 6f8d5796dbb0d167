"""`mta-clip predict`: segments images, and saves each one side by side with its overlay and legend."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config_loader import load_config
from ..data import read_image
from ..data.image_files import find_images
from ..files import complete_file, png_names
from ..predictor import SegmentationPredictor
from ..visualization import save_label_map
from .options import add_config_options

DESCRIPTION = """Segments images, and saves each one side by side with its overlay and legend.

mta-clip predict --config-file configs/shapes/mta_clip_tiny.yaml --weights output/demo/model_final.pth \\
    --input street.jpg photos/ 'more/*.png' --output output/overlays
mta-clip predict ... --labels "sky, road, my cat"        looks for other classes, by name
mta-clip predict ... --save-labels                       also saves label PNGs (pixel values are class indices)
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser, required=True)
    parser.add_argument("--weights", help="checkpoint; short for MODEL.WEIGHTS")
    parser.add_argument("--input", nargs="+", required=True, help="image files, folders and glob patterns")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--labels", type=class_list, help='class names to look for, e.g. "sky, road, my cat"')
    parser.add_argument("--save-labels", action="store_true", help="also save label maps, as OUTPUT/labels/*.png")
    parser.add_argument("--alpha", type=share, default=0.55, help="share of label colour in the overlay, 0..1")


def class_list(text: str) -> list[str]:
    """Splits comma-separated names and removes surrounding spaces.

    Raises:
        argparse.ArgumentTypeError: a name is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise argparse.ArgumentTypeError(f"an empty class name in {text!r}")
    return names


def share(text: str) -> float:
    """Reads a number in 0..1.

    Raises:
        ValueError: not a number.
        argparse.ArgumentTypeError: the number is not in 0..1.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def segment_images(
    predictor: SegmentationPredictor, images: Sequence[str], output: Path, *, alpha: float, save_labels: bool
) -> dict[str, str]:
    """Saves a picture for every image; an image that fails does not stop the others.

    Args:
        output: folder for the pictures.
        alpha: share of the label colour in the overlay, 0..1.
        save_labels: also save label maps, as `output`/labels/*.png.

    Returns:
        {path of an image that failed: reason}.

    Raises:
        OSError: a picture cannot be written.
    """
    failures = {}
    names = png_names(images)
    for path in tqdm(images, unit="image", disable=None):
        try:
            image = read_image(path)
            prediction = predictor.predict(image)
        except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
            failures[path] = str(error).removeprefix(f"{path}: ")
            logger.error("skipped %s: %s", path, failures[path])
            continue
        with complete_file(output / names[path]) as part:
            predictor.draw(image, prediction, alpha=alpha).save(part, format="PNG")
        if save_labels:
            save_label_map(prediction.labels, output / "labels" / names[path], predictor.colors)
    return failures


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 0, or 1 if an input failed."""
    cfg = load_config(args.config_file, args.opts)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = True  # only labels are drawn, so the scores of large images need not be kept
    images, failures = find_images(args.input)
    if images:
        predictor = SegmentationPredictor(cfg)
        if args.labels:
            predictor.set_vocabulary(args.labels)
        with logging_redirect_tqdm():
            failures |= segment_images(
                predictor, images, Path(args.output), alpha=args.alpha, save_labels=args.save_labels
            )
    done = len(images) - sum(path in failures for path in images)
    logger.info("%d of %d images segmented; pictures are in %s", done, len(images), args.output)
    for path, reason in failures.items():
        logger.error("FAILED %s: %s", path, reason)
    return 1 if failures else 0
