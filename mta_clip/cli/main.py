"""The command line of the package: `mta-clip COMMAND ...`."""

import argparse
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import Any

from ..engine.interrupts import Interrupted
from .console import write_error
from .options import parse

# modules of this package
COMMANDS = ("train", "evaluate", "predict", "label", "check", "export", "info", "app", "serve")
# What is wrong with the input, not with the code.
USER_ERRORS = (ValueError, KeyError, OSError, ImportError, FloatingPointError)
# Warnings of libraries about each other, which nobody who runs a command can act on: category, module.
DEPRECATIONS = ((FutureWarning, "torch.jit._script"),)

if multiprocessing.parent_process() is not None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before training, Ctrl-C ends the processes of a job without a word


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command and its options; None: those of the process.

    Returns:
        The exit status: 0; 1 after an error; 130 or 143 after SIGINT or SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    hide_deprecations()
    name = command_parser().parse_args(arguments[:1] or ["--help"]).command
    parser = parser_of(name)
    args = parse(parser, arguments[1:])
    logging.basicConfig(format="%(message)s", stream=sys.stdout if name == "check" else sys.stderr)
    logging.getLogger("mta_clip").setLevel(logging.INFO)
    before = _stop_on_sigterm()
    try:
        return _module(name).run(args)
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        write_error(f"{parser.prog}: {stop}")
        return 128 + stop.signum
    except Exception as error:
        if args.debug or (message := user_message(error)) is None:
            raise
        write_error(f"{parser.prog}: error: {message}")
        return 1
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def command_parser() -> argparse.ArgumentParser:
    """The parser of the command's name, whose help lists all commands."""
    lines = [f"  {name:10}{_module(name).DESCRIPTION.splitlines()[0]}" for name in COMMANDS]
    parser = argparse.ArgumentParser(
        prog="mta-clip",
        description="Language-guided semantic segmentation.\n\n" + "\n".join(lines),
        epilog="mta-clip COMMAND --help shows the options of a command, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those above")
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of what follows the name of a command."""
    command = _module(name)
    parser = argparse.ArgumentParser(
        prog=f"mta-clip {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    return parser


def user_message(error: Exception) -> str | None:
    """What to tell the user about an error; None if it is not one that the user can mend."""
    if hasattr(error, "rank"):
        return _of_process(error)
    if told := _of_memory(type(error).__name__, str(error)):
        return told
    if not isinstance(error, USER_ERRORS):
        return None
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _of_process(error: Any) -> str | None:  # a ProcessError, whose module takes a second to import
    if not error.error:  # it was killed
        return str(error)
    reason = error.reason[1:-1] if error.error == "KeyError" else error.reason  # whose text is quoted
    known = reason if error.error in _names_of_user_errors() else _of_memory(error.error, reason)
    return known and f"process {error.rank}: {known}"


def _of_memory(name: str, message: str) -> str | None:
    """What to tell the user about an error of this name that means too little memory; None for others."""
    if name in ("MemoryError", "OutOfMemoryError") or "DefaultCPUAllocator: can't allocate" in message:
        lower = "Lower SOLVER.IMS_PER_BATCH or the sizes in INPUT and MODEL, or raise SOLVER.ACCUMULATE"
        return f"memory ran out ({message or name}). {lower}"
    if "DataLoader worker (pid" in message:  # as torch begins its message
        return f"{message.strip()} Perhaps memory ran out: lower DATALOADER.NUM_WORKERS"
    return None


def _names_of_user_errors() -> set[str]:
    from ..checkpoint import CheckpointError

    bases = (*USER_ERRORS, CheckpointError)
    return {kind.__name__ for base in bases for kind in (base, *base.__subclasses__())}


def hide_deprecations() -> None:
    """Hides warnings of DEPRECATIONS, also in processes that this one starts."""
    for category, module in DEPRECATIONS:
        warnings.filterwarnings("ignore", category=category, module=module.replace(".", r"\."))
    rules = dict.fromkeys(filter(None, os.environ.get("PYTHONWARNINGS", "").split(",")))
    rules |= {f"ignore::{category.__name__}:{module}": None for category, module in DEPRECATIONS}
    os.environ["PYTHONWARNINGS"] = ",".join(rules)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")


def _stop_on_sigterm() -> Callable[[int, FrameType | None], Any] | int | None:
    """Makes SIGTERM end the process as Ctrl-C does; returns the earlier handler."""
    owner = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker, forked from this process, which ends its workers by this signal
            os._exit(128 + signum)
        raise Interrupted(signum)

    return signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
