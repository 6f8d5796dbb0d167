"""The command line of the package: `mta-clip COMMAND ...`."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from .options import parse

COMMANDS = ("train", "evaluate", "predict", "check")  # modules of this package


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command and its options; None: those of the process.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    top = argparse.ArgumentParser(prog="mta-clip", description="Language-guided semantic segmentation.")
    top.add_argument("command", choices=COMMANDS)
    name = top.parse_args(arguments[:1]).command
    command = importlib.import_module(f"{__package__}.{name}")
    parser = argparse.ArgumentParser(
        prog=f"mta-clip {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parse(parser, arguments[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout if name == "check" else sys.stderr)
    return command.run(args)
