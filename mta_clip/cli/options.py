"""Options that several commands share, and the config that they describe."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_names import find_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

CONFIG_HELP = "config file, name of a config of the package (camvid/mta_clip_small), or folder of a run or saved model"


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds --config-file and the KEY VALUE pairs."""
    parser.add_argument("--config-file", default="", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and values, which override the config"
    )


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """Adds --weights."""
    help_weights = (
        "checkpoint of a trained model (MODEL.WEIGHTS), e.g. a run's model_best.pth instead of its last one; without "
        "--config-file, the config in it or beside it is taken"
    )
    parser.add_argument("--weights", default="", metavar="FILE", help=help_weights)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run_job`: how many processes and machines, and how they meet."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs per machine; with MODEL.DEVICE cpu, processes"
    )
    group.add_argument("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    group.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this machine, from 0")
    # By default any free port, so that two runs on one machine do not collide.
    group.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0, if there are several machines")
    group.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="how often a run that failed, or lost a process, is restarted from its last checkpoint (default: 0)",
    )


def add_names_option(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Adds --names: the classes to look for; --labels, its older name, is the same."""
    help_names = f'class names to look for, e.g. "sky, road, my cat", or a file as for training{default}'
    parser.add_argument("--names", "--labels", type=class_list, metavar="NAMES", help=help_names)


def add_other_options(parser: argparse.ArgumentParser) -> None:
    """Adds --other and --threshold: what pixels get at which no name fits."""
    help_other = "class of the pixels at which no name reaches the threshold"
    parser.add_argument("--other", type=class_name, metavar="NAME", help=help_other)
    help_threshold = "confidence, 0..1, that a name needs if there is an --other (default: 0.3)"
    parser.add_argument("--threshold", type=share, metavar="T", help=help_threshold)


def other_of(args: argparse.Namespace) -> tuple[str, float] | None:
    """What --other and --threshold say: the class and its threshold; None without --other.

    Raises:
        ValueError: --threshold without --other.
    """
    from ..api.result import DEFAULT_THRESHOLD

    if args.other is None and args.threshold is not None:
        raise ValueError("--threshold needs --other, the name of the class of the pixels below it")
    return None if args.other is None else (args.other, DEFAULT_THRESHOLD if args.threshold is None else args.threshold)


def class_name(text: str) -> str:
    """Removes surrounding spaces of a name.

    Raises:
        argparse.ArgumentTypeError: nothing is left.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of a class is empty")
    return text.strip()


def class_list(text: str) -> list[str]:
    """Splits comma-separated names and removes surrounding spaces; or reads those of a file, NAME.txt.

    Raises:
        argparse.ArgumentTypeError: a name is empty, or the file does not exist or is malformed.
    """
    if text.endswith(".txt"):
        from ..data.classes import read_classes

        try:
            return list(read_classes(text).names)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise argparse.ArgumentTypeError(f"an empty class name in {text!r}")
    return names


def positive(text: str) -> int:
    """Reads a whole number of at least 1.

    Raises:
        ValueError: the text is not a whole number.
        argparse.ArgumentTypeError: the number is below 1.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


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


def share_below_1(text: str) -> float:
    """Reads a number from 0 to below 1.

    Raises:
        ValueError: not a number.
        argparse.ArgumentTypeError: the number is below 0, or 1 or more.
    """
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to below 1")
    return value


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses arguments in which options may also follow the KEY VALUE pairs."""
    args, rest = parser.parse_known_args(arguments)
    pairs = [*getattr(args, "opts", []), *rest]  # argparse fills a list from one place only; values may be like "-1e-3"
    unknown = any(word.startswith("--") for word in rest) or any(key.startswith("-") for key in pairs[::2])
    if rest and (unknown or "opts" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if "opts" in args:
        args.opts = pairs
    return args


def config_of(args: argparse.Namespace) -> "CfgNode":
    """The config that --config-file and the KEY VALUE pairs describe.

    Raises:
        ValueError: no config is named.
        FileNotFoundError, KeyError, ValueError: see `load_config`.
    """
    if not args.config_file:
        raise ValueError("no config is named: add --config-file, e.g. --config-file shapes/mta_clip_tiny")
    find_config(args.config_file)  # an error at once; the loader takes seconds to import

    from ..config_loader import load_config

    return load_config(args.config_file, args.opts)


def trained_config(args: argparse.Namespace) -> "CfgNode":
    """The config of the trained model that --config-file and --weights name, with its weights.

    Raises:
        ValueError: neither is named.
        FileNotFoundError, KeyError, ValueError: see `find_model`.
    """
    if not (args.config_file or args.weights):
        raise ValueError("no model is named: add --weights, or --config-file with a config or the folder of a run")
    find_config(args.config_file or args.weights)  # an error at once; the rest takes seconds to import

    from ..api.find import find_model

    if not args.config_file:
        return find_model(args.weights, overrides=args.opts)
    cfg = find_model(args.config_file, weights=args.weights, overrides=args.opts)
    if Path(args.config_file).is_dir() and "OUTPUT_DIR" not in args.opts[::2]:
        cfg.OUTPUT_DIR = args.config_file  # which may have been moved
    return cfg
