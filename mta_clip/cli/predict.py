"""`mta-clip predict`: segments images, and saves each one side by side with its overlay and legend; and videos."""

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_config_options,
    add_names_option,
    add_other_options,
    add_weights_option,
    other_of,
    positive,
    share,
    share_below_1,
    trained_config,
)

if TYPE_CHECKING:
    from ..predictor import SegmentationPredictor

DESCRIPTION = """Segments images, and saves each one side by side with its overlay and legend; videos with an overlay.

  mta-clip predict --config-file output/demo --input street.jpg photos/ 'more/*.png' --output out
  mta-clip predict --weights model_final.pth --input photos/ --output out --save-labels
  mta-clip predict ... --names "sky, road, my cat"      looks for other classes, by name
  mta-clip predict ... --names "my cat" --other rest     and calls what is none of them "rest"
  mta-clip predict ... --input clip.mp4 --smoothing 0.8  a video, its probabilities averaged over some five frames
  mta-clip predict ... --input 0                         the first webcam, until Ctrl-C

photos/sub/a.jpg, found in the folder photos/, becomes out/sub/a.png; the file photos/sub/a.jpg or the pattern
'photos/sub/*.jpg' become out/a.png. Label maps have the same names below out/labels/. Nothing else decides the name,
and no input is ever overwritten. clip.mov becomes out/clip.mp4, and its label maps out/labels/clip/000000.png, ...
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument(
        "--input", nargs="+", required=True, help="images, videos, folders and glob patterns; or the index of a webcam"
    )
    parser.add_argument("--output", required=True, help="folder for the pictures")
    add_names_option(parser)
    add_other_options(parser)
    parser.add_argument("--save-labels", action="store_true", help="also save label PNGs (pixel value = class index)")
    parser.add_argument("--alpha", type=share, default=0.55, help="share of label colour in the overlay, 0..1")
    video = parser.add_argument_group("videos")
    video.add_argument(
        "--smoothing",
        type=share_below_1,
        default=0.0,
        metavar="S",
        help="share of the earlier frames in the probabilities of each, 0 (none, the default) to below 1",
    )
    video.add_argument("--batch-size", type=positive, default=4, metavar="N", help="frames per forward (default: 4)")


def output_names(images: Mapping[str, str], *, save_labels: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the pictures and videos. Each depends on its own image alone, so that it always gets the same name.

    Args:
        images: of `find_images`.

    Returns:
        {path: its path below the input, with ".png" or, of a video, ".mp4" as its suffix}; and of each image whose name
        is taken, {path: reason}.
    """
    from ..data.video_files import is_video

    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    failures: dict[str, str] = {}
    for image, below in images.items():
        stem = os.path.splitext(below)[0]
        name, labels = (f"{stem}.mp4", f"labels/{stem}") if is_video(image) else (f"{stem}.png", f"labels/{stem}.png")
        files = [name, labels] if save_labels else [name]
        if first := next((taken[file] for file in files if file in taken), None):
            failures[image] = f"{name} is already made of {first}; take another --output for this one"
        else:
            names[image] = name
            taken |= dict.fromkeys(files, image)
    return names, failures


def protect_inputs(images: Mapping[str, str], names: Mapping[str, str], output: Path) -> None:
    """Raises a ValueError if a picture or label map would replace one of the images."""
    inputs = {os.path.realpath(image) for image in images}
    for name in names.values():
        for file in (output / name, output / "labels" / name):
            if os.path.realpath(file) in inputs:
                raise ValueError(f"{file} is an input, and would be overwritten: choose another folder for --output")


def segment_files(
    predictor: "SegmentationPredictor",
    names: Mapping[str, str],
    output: Path,
    *,
    alpha: float,
    save_labels: bool,
    smoothing: float = 0.0,
    batch_size: int = 4,
) -> dict[str, str]:
    """Saves a picture for every image, and a video for every video; one that fails does not stop the others.

    Args:
        names: {path of an image: name of its picture}.
        output: folder for the pictures.
        alpha: share of the label colour in the overlay, 0..1.
        save_labels: also save label maps, as `output`/labels/*.png.
        smoothing: of videos; see `segment_video`.
        batch_size: frames of a video in a forward pass.

    Returns:
        {path of an image that failed: reason}.

    Raises:
        OSError: a picture cannot be written.
    """
    from torch.cuda import OutOfMemoryError
    from tqdm import tqdm

    from ..api.video import segment_video
    from ..data import read_image
    from ..data.video_files import is_video
    from ..files import complete_file
    from ..visualization import save_label_map

    failures = {}
    for path, name in tqdm(names.items(), unit="file", disable=None):
        labels = output / "labels" / name
        try:
            if is_video(path):
                options: dict[str, Any] = {"alpha": alpha, "smoothing": smoothing, "batch_size": batch_size}
                folder = labels.with_suffix("") if save_labels else None
                if problem := segment_video(predictor, path, output / name, labels=folder, **options):
                    failures[path] = f"{problem}; the others are in {output / name}"
                continue
            image = read_image(path)
            prediction = predictor.predict(image)
        except (FileNotFoundError, ValueError, OutOfMemoryError) as error:
            failures[path] = str(error).removeprefix(f"{path}: ")
            logger.error("skipped %s: %s", path, failures[path])
            continue
        with complete_file(output / name) as part:
            predictor.draw(image, prediction, alpha=alpha).save(part, format="PNG")
        if save_labels:
            save_label_map(prediction.labels, labels, prediction.colors)
    return failures


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 0, or 1 if an input failed."""
    cfg, other = trained_config(args), other_of(args)

    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..data.datasets.catalog import IMAGE_SUFFIXES
    from ..data.image_files import find_images
    from ..data.video_files import VIDEO_SUFFIXES, is_webcam
    from ..engine.devices import check_devices
    from ..engine.run_folder import check_writable
    from ..predictor import SegmentationPredictor

    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = True  # only labels are drawn, so the scores of large images need not be kept
    check_devices(cfg.MODEL.DEVICE)
    images, failures = find_images(
        [item for item in args.input if not is_webcam(item)], suffixes=IMAGE_SUFFIXES + VIDEO_SUFFIXES
    )
    images |= {item: f"webcam_{item}" for item in args.input if is_webcam(item)}
    names, doubles = output_names(images, save_labels=args.save_labels)
    failures |= doubles
    output = Path(args.output)
    protect_inputs(images, names, output)
    if names:
        check_writable(args.output, "--output")
        predictor = SegmentationPredictor(cfg)
        if args.names:
            predictor.set_vocabulary(args.names)
        if other:
            predictor.set_other(*other)
        with logging_redirect_tqdm():
            failures |= segment_files(
                predictor,
                names,
                output,
                alpha=args.alpha,
                save_labels=args.save_labels,
                smoothing=args.smoothing,
                batch_size=args.batch_size,
            )
    if images:
        done = len(images) - sum(path in failures for path in images)
        logger.info("%d of %d files segmented; pictures and videos are in %s", done, len(images), args.output)
    for path, reason in failures.items():
        logger.error("FAILED %s: %s", path, reason)
    return 1 if failures else 0
