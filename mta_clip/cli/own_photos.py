"""Options that say where one's own photos are, for commands that train on them or check them."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

VAL_SHARE = 0.2  # of the photos, held out for evaluation where there is no val folder


def add_photo_options(parser: argparse.ArgumentParser, description: str) -> "argparse._ArgumentGroup":
    """Adds --data and the options in its place, as a group of options; returns the group."""
    group = parser.add_argument_group("your own photos", description)
    group.add_argument("--data", metavar="FOLDER", help="with images/, labels/ (or train/ and val/ of both), names.txt")
    group.add_argument("--images", metavar="FOLDER", help="instead of FOLDER/images")
    help_labels = "instead of FOLDER/labels: one PNG per photo, of class indices; may be the folder of JPEG photos"
    group.add_argument("--labels", metavar="FOLDER", help=help_labels)
    group.add_argument("--names", metavar="FILE", help="instead of FOLDER/names.txt: one class name per line")
    group.add_argument("--label-map", type=label_map, metavar="MAP", help="what stored values mean, e.g. '{11: 255}'")
    group.add_argument("--ignore-label", type=int, default=255, metavar="N", help="value of pixels of no class (255)")
    return group


def label_map(text: str) -> dict[int, int]:
    """Reads {stored value: class index or ignore label}, as in DATASETS.FOLDERS.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, int) for pair in found.items() for value in pair):
        raise argparse.ArgumentTypeError(f"expected stored values and their meaning, such as {{11: 255}}, got {text!r}")
    return found


def has_photos(args: argparse.Namespace) -> bool:
    """Whether the options of `add_photo_options` name photos."""
    return bool(args.data or args.images)


def photos_config(base: "CfgNode", args: argparse.Namespace, *, val_share: float, seed: int = 0) -> "CfgNode":
    """The config that trains a model of `base` on the photos that the options name; for the rest see `own_config`.

    What KEY VALUE pairs say about classes, such as DATASETS.UNSEEN_CLASSES, is meant for these photos, and stays.

    Raises:
        FileNotFoundError, ValueError: see `own_config`.
    """
    from ..data.model_classes import CLASS_KEYS
    from ..data.own_folder import own_config

    parts = {name: getattr(args, name) for name in ("data", "images", "labels", "names")}
    labels = {"label_map": args.label_map, "ignore_label": args.ignore_label}
    cfg = own_config(base, **parts, **labels, val_share=val_share, seed=seed)
    opts = getattr(args, "opts", [])
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key in CLASS_KEYS:
            cfg.merge_from_list([key, value])
    return cfg
