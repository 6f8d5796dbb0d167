"""Writes checkpoints atomically, with nothing in them that could not be read back without running code."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..files import complete_file

# What torch.load(weights_only=True) reads. Types must match exactly: a numpy float is a float, but would be refused.
_SCALARS = {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size}
_CONTAINERS = {dict, OrderedDict, Counter, list, tuple, set}
SUFFIXES = (".safetensors", ".pth")


def save_plain(data: Mapping[str, Any], path: str | Path) -> None:
    """Saves tensors and plain containers with torch.save so that torch.load(weights_only=True) reads them back.

    Raises:
        TypeError: `data` holds something else; the message says where.
        OSError: the file cannot be written.
    """
    require_plain(data)
    with complete_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(data), file)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None  # a full disk


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path, *, wrapped: bool = True) -> None:
    """Saves weights as safetensors, or as a .pth with nothing but weights, as the suffix says.

    Args:
        wrapped: a .pth holds {"model": state_dict}, which Detectron2's checkpointer expects, instead of `state_dict`.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
    """
    path = Path(path)
    require_known_suffix(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    if path.suffix == ".pth":
        save_plain({"model": tensors} if wrapped else tensors, path)
        return
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses shared memory
    with complete_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # of a new file; safetensors writes one that only its owner may read
        try:
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        temporary.chmod(mode)


def require_known_suffix(path: Path) -> None:
    """Raises a ValueError if we cannot write the format that the suffix names."""
    if path.suffix not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise ValueError(f"{path}: weights are written as {expected}, not as {path.suffix or 'no suffix'!r}")


def require_plain(value: Any, place: str = "checkpoint") -> None:
    """Raises a TypeError that names the place if a value holds other things than tensors and plain Python values."""
    kind = type(value)
    if kind in _CONTAINERS:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            require_plain(key, f"{place} key {key!r}")
            require_plain(item, f"{place}[{key!r}]")
    elif kind not in _SCALARS and kind not in (Tensor, nn.Parameter):
        raise TypeError(
            f"{place} is a {kind.__module__}.{kind.__qualname__}, which could not be loaded again without trusting the "
            "file. Store tensors, numbers, strings, lists or dicts (of a numpy array, torch.from_numpy(x); of a numpy "
            "number, x.item())"
        )
