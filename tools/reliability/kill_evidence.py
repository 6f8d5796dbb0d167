"""What a killed job left behind: whether its files are whole, and whether they are those of an uninterrupted job."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from PIL import Image
from torch import Tensor

from mta_clip.engine.trainer import METRICS_FILE

LOGS = ("log.txt*", "events.out.tfevents.*")  # differ from run to run
CLOCK = {"time", "data_time", "eta_seconds"}  # of training_metrics.json
PART = ".part"  # of files that are being written


def state_of(folder: Path) -> dict[str, str]:
    """{path below the folder: digest of its content}, of all files but logs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest(path) for path in files if not is_log(path)}


def is_log(path: Path) -> bool:
    return any(path.match(pattern) for pattern in LOGS)


def digest(path: Path) -> str:
    """Of a checkpoint, its values; of a log of metrics, those of evaluations; of others, the bytes."""
    if path.name == METRICS_FILE:
        evaluated = {key: value for key, value in logged(path).items() if "/" in key[1]}
        content = repr(sorted(evaluated.items())).encode()
    elif path.suffix == ".pth":
        content = _canonical(torch.load(path, weights_only=True))
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, Tensor):
        return (
            f"{value.dtype}{tuple(value.shape)}".encode()
            + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    if isinstance(value, dict):
        return b"{" + b",".join(_canonical(key) + b":" + _canonical(item) for key, item in value.items()) + b"}"
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(map(_canonical, value)) + b"]"
    return repr(value).encode()


def damaged(folder: Path) -> list[str]:
    """Files that cannot be read, with the reason; those with the name of a part are not meant to be whole."""
    troubles = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or is_log(path) or PART in str(path.relative_to(folder)):
            continue
        try:
            _READERS.get(path.suffix, _not_empty)(path)
        except Exception as error:
            troubles.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    return troubles


def _not_empty(path: Path) -> None:
    if not path.stat().st_size:
        raise ValueError("is empty")
    if path.name == "last_checkpoint" and not (path.parent / path.read_text()).is_file():
        raise ValueError(f"names {path.read_text()}, which is not there")


def _read_json(path: Path) -> None:
    logged(path) if path.name == METRICS_FILE else json.loads(path.read_text())


def logged(path: Path) -> dict[tuple[int, str], float]:
    """{(iteration, name): value} of a log of metrics, but times.

    An evaluation that was made up for may be there twice, with the same values. What follows the last newline is
    unfinished; --resume cuts it off.

    Raises:
        ValueError: a line is no JSON, or a value is there twice and differs.
    """
    values: dict[tuple[int, str], float] = {}
    for line in path.read_text().split("\n")[:-1]:
        row = json.loads(line)
        for name in row.keys() - CLOCK:
            if values.setdefault((row["iteration"], name), row[name]) != row[name]:
                raise ValueError(f"has two values of {name} at iteration {row['iteration']}")
    return values


def _read_png(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


_READERS: dict[str, Callable[[Path], object]] = {
    ".pth": lambda path: torch.load(path, weights_only=True),
    ".safetensors": lambda path: safetensors.torch.load_file(path),
    ".json": _read_json,
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".png": _read_png,
}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """One line per file that is missing, too many or different."""
    lines = [f"{name} is missing" for name in expected.keys() - found.keys()]
    lines += [f"{name} is left over" for name in found.keys() - expected.keys()]
    lines += [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(lines)
