"""Options that several commands share, and the config that they describe."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

CONFIG_HELP = "config file, name of a config of the package (camvid/mta_clip_small), or folder of a run"


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds --config-file and the KEY VALUE pairs."""
    parser.add_argument("--config-file", default="", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and values, which override the config"
    )


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """Adds --weights."""
    help_weights = "checkpoint of a trained model (MODEL.WEIGHTS); without --config-file, its own config is taken"
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
    from ..config_loader import load_config

    if not args.config_file:
        raise ValueError("no config is named: add --config-file, e.g. --config-file shapes/mta_clip_tiny")
    return load_config(args.config_file, args.opts)


def trained_config(args: argparse.Namespace) -> "CfgNode":
    """The config of a trained model, with its weights: of --config-file, or of the checkpoint itself.

    Of a run's folder it takes the last checkpoint.

    Raises:
        ValueError: no config is named, and the checkpoint has none.
        FileNotFoundError, KeyError, ValueError: see `load_config` and `saved_config`.
    """
    from ..engine.run_folder import newest_weights
    from ..engine.trained_model import saved_config

    if args.config_file:
        cfg = config_of(args)
        if Path(args.config_file).is_dir():  # which may have been moved
            if "OUTPUT_DIR" not in args.opts[::2]:
                cfg.OUTPUT_DIR = args.config_file
            if not args.weights and "MODEL.WEIGHTS" not in args.opts[::2]:
                args.weights = newest_weights(args.config_file)
    elif not args.weights:
        raise ValueError("no model is named: add --weights, or --config-file with a config or the folder of a run")
    elif (cfg := saved_config(args.weights, args.opts)) is None:
        raise ValueError(f"{args.weights} holds no config: add --config-file with the one it was trained with")
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    return cfg
