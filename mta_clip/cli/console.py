"""Where commands write: results to stdout, last words to stderr. Everything else is logged."""

import sys


def write_result(text: str) -> None:
    """Writes lines of a command's result to stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_error(text: str) -> None:
    """Writes why a command ends to stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
