"""Stand-ins for the functions and classes that a pickled checkpoint may name, and the unpickler of plain pickles.

A pickle is a program: it names functions and calls them. Here the names in `STAND_INS` lead to classes of this module,
which check their arguments and call nothing. They define `__setstate__`, so a file cannot set their attributes.
"""

import pickle
import re
from typing import Any

import numpy as np
from torch import Tensor


class StandIn:
    """Takes the place of an object whose class is not imported: accepts any arguments and does nothing."""

    value: Any = None  # what the reader returns in its place
    state: Any = None  # what the file stored as the object's attributes

    def __init__(self, *args: Any) -> None:
        pass  # accepts whatever the real class would

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dict(dict):
    """For OrderedDict; drops the `_metadata` attribute of a state dict."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Bytes(StandIn):
    """For `_codecs.encode` and `bytes`, with which old protocols write bytes."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> bytes:  # type: ignore[misc]  # not an instance
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes written as text in the encoding {encoding!r:.40}")
        return text.encode("latin1")


class _Dtype(StandIn):
    """For a numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|\?)", code)):
            raise pickle.UnpicklingError(f"an array of type {code!r:.40}; only numbers and booleans are read")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("a structured array; only arrays of numbers are read")
        self.value = self.value.newbyteorder(byte_order)


class _Array(StandIn):
    """For a numpy.ndarray, which pickle first makes empty and then gives its state."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran_order, data = state
        self.value = _array(data, dtype, shape, "F" if fortran_order else "C")


class _ArrayOfBuffer(StandIn):
    """For a numpy.ndarray in pickle protocol 5."""

    def __init__(self, data: Any, dtype: Any, shape: Any, order: str) -> None:
        self.value = _array(data, dtype, shape, order)


class _Scalar(StandIn):
    """For a number of numpy, which becomes a Python number."""

    def __new__(cls, dtype: Any, data: Any) -> Any:
        return _array(data, dtype, ()).item()


def _array(data: Any, dtype: Any, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
    if not (isinstance(dtype, _Dtype) and dtype.value) or not isinstance(data, (str, bytes, bytearray)):
        raise pickle.UnpicklingError("an array whose content is not raw numbers")
    if isinstance(data, str):  # bytes written by Python 2
        data = data.encode("latin1")
    array = np.frombuffer(data, dtype=dtype.value).reshape(shape, order=order)
    return array.astype(dtype.value.newbyteorder("="))  # a copy: writable, and in this machine's byte order


STAND_INS: dict[str, type] = {
    "collections.OrderedDict": _Dict,
    "_codecs.encode": _Bytes,
    "numpy.ndarray": StandIn,
    "numpy.dtype": _Dtype,
}
for _builtins in ("builtins", "__builtin__"):  # in Python 3 and 2
    STAND_INS[f"{_builtins}.bytes"] = _Bytes
    STAND_INS[f"{_builtins}.set"] = set  # a file cannot set its attributes either
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    STAND_INS[f"{_core}.multiarray._reconstruct"] = _Array
    STAND_INS[f"{_core}.multiarray.scalar"] = _Scalar
    STAND_INS[f"{_core}.numeric._frombuffer"] = _ArrayOfBuffer


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain pickles of numpy arrays and plain Python values; encoding="latin1" reads those of Python 2 too."""

    def find_class(self, module: str, name: str) -> type:
        """The stand-in for a name in the file; an UnpicklingError if the name is not in STAND_INS."""
        if f"{module}.{name}" not in STAND_INS:
            raise refused(f"{module}.{name}")
        return STAND_INS[f"{module}.{name}"]


def refused(name: str) -> pickle.UnpicklingError:
    """The error for a file that names something other than data."""
    return pickle.UnpicklingError(
        f"it names {name}, which is neither a tensor, an array nor a plain container. Loading it could run code, so "
        "nothing was loaded"
    )


def plain(value: Any, size: int, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Replaces stand-ins by their values in what an unpickler returned, in place where possible.

    Args:
        size: of the file, in bytes.
        seen: containers that were visited before, by id; for the recursion.

    Raises:
        pickle.UnpicklingError: a class among the values, or a tensor that claims more bytes than the file has.
    """
    seen = {} if seen is None else seen
    if isinstance(value, StandIn):
        return value.value
    if isinstance(value, type):
        raise pickle.UnpicklingError("it stores a class as a value")
    if isinstance(value, Tensor):
        claimed = max(value.untyped_storage().nbytes(), value.numel() * value.element_size())
        if claimed > size:
            raise pickle.UnpicklingError(f"a tensor of {claimed} bytes in a file of {size} bytes")
    if not isinstance(value, (dict, list, tuple, set)):
        return value
    if id(value) not in seen:  # containers may be shared or hold themselves
        seen[id(value)] = value, value
        if isinstance(value, (dict, list)):
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                plain(key, size, seen)
                value[key] = plain(item, size, seen)
        else:
            seen[id(value)] = value, type(value)([plain(item, size, seen) for item in value])
    return seen[id(value)][1]
