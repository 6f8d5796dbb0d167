"""What the scripts in datasets/ share: they convert files, and never leave a half-written file."""

import argparse
import functools
import logging
import os
import signal
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from scipy.io.matlab import MatReadError

from ..files import complete_file
from .datasets.catalog import data_root
from .parallel import map_files

logger = logging.getLogger(__name__)


def run_script(description: str, prepare: Callable[[Path, int], None], argv: Sequence[str] | None = None) -> int:
    """The command line of a script: reads --root and --workers, then calls `prepare(root, workers)`.

    Returns:
        The exit status: 0; 1 after an error about a file, or 130 after Ctrl-C, reported without a traceback.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=data_root(), help="folder of all datasets (default: %(default)s, see the README)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(arguments.root, arguments.workers)
    except (OSError, ValueError) as error:
        logger.error("Error: %s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("Stopped; the same command continues")
        return 128 + signal.SIGINT
    return 0


def convert_label_maps(
    sources: Sequence[Path],
    targets: Sequence[Path],
    convert: Callable[[Path], NDArray[np.uint8 | np.uint16]],
    *,
    workers: int,
) -> None:
    """Writes `convert(source)`, (H, W) uint8 or uint16, as a PNG file; for all else see `convert_files`."""
    convert_files(sources, targets, functools.partial(_write_label_map, convert), workers=workers)


def _write_label_map(convert: Callable[[Path], NDArray[np.uint8 | np.uint16]], source: Path, target: Path) -> None:
    Image.fromarray(convert(source)).save(target, format="PNG")


def convert_files(
    sources: Sequence[Path], targets: Sequence[Path], write: Callable[[Path, Path], None], *, workers: int
) -> None:
    """Calls `write(source, target)` for each target that does not exist yet.

    A target gets its name only when it is complete, so a run may be interrupted and started again. See `map_files` for
    `write` and `workers`.

    Raises:
        ValueError: `sources` is empty.
    """
    if not sources:
        raise ValueError("There are no files to convert.")
    open_jobs = [job for job in zip(sources, targets, strict=True) if not job[1].exists()]
    done = map_files(functools.partial(_convert_one, write), open_jobs, workers=workers, description="Converting")
    converted = sum(1 for _ in done)
    logger.info(
        "%d files converted, %d were there already, in %s",
        converted,
        len(sources) - converted,
        os.path.commonpath([target.parent for target in targets]),
    )


def _convert_one(write: Callable[[Path, Path], None], job: tuple[Path, Path]) -> None:
    source, target = job
    with complete_file(target) as part:
        write(source, part)


def find_files(folder: Path, pattern: str, *, download: str) -> list[Path]:
    """The files in a folder that match a glob pattern, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: no file matches; the message says that they come from the archive `download`.
    """
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"{folder / pattern}: no such files. Unpack {download} there (see datasets/README.md).")
    return found


def load_mat(path: Path, key: str) -> NDArray:
    """The array called `key` in a MATLAB file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or has no such array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this MATLAB file does not exist. Unpack the archive again.")
    try:
        content = scipy.io.loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise ValueError(f"{path}: the MATLAB file cannot be read ({error}). Unpack the archive again.") from error
    if key not in content:
        names = [name for name in content if not name.startswith("__")]
        raise ValueError(f"{path}: there is no array {key!r} in this MATLAB file, only {names}.")
    return content[key]
