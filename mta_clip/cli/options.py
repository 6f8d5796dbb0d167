"""Options that several commands share."""

import argparse
from collections.abc import Sequence


def add_config_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Adds --config-file and the KEY VALUE pairs."""
    parser.add_argument(
        "--config-file", default="", required=required, metavar="FILE", help="config of the model (YAML)"
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and their values, which override the file"
    )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run_job`: how many processes and machines, and how they meet."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="GPUs per machine; with MODEL.DEVICE cpu, processes"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this machine, from 0")
    # By default any free port, so that two runs on one machine do not collide.
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; needed by several machines")
    parser.add_argument(
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
