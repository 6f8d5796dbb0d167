"""Reads pickled checkpoints as data: numbers, strings, arrays, tensors and plain containers, nothing else.

A pickle is a program: it names functions and has them called. Here the only names it can reach are those in a short
table, and behind each stands an inert stand-in of ours that checks its arguments; any other name is refused before
anything is called. Stand-ins define `__setstate__`, so a file can neither add attributes to them nor replace methods.
"""

import pickle
import re
from collections.abc import Callable
from typing import IO, Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor


class Leaf:
    """A finished value on the unpickler's stack, which the file cannot look into or change."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a state for a {type(self).__name__.strip('_').lower()}, which takes none")


class Inert:
    """Stands for an object of a class that is not loaded. Takes any arguments, keeps only its attributes."""

    __slots__ = ("attributes",)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        self = object.__new__(cls)
        self.attributes = {}
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass  # takes what the real class would take

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state

    def append(self, item: Any) -> None:
        """Content of list subclasses is dropped."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Content of dict subclasses is dropped."""


class Storages(Protocol):
    """Where the tensors of a pickle have their numbers."""

    def __call__(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        """The storage of that key as a flat (numel,) tensor."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that reaches only the stand-ins of this module.

    Args:
        storages: gives tensors their numbers; None refuses torch tensors.
        inert: packages whose objects are replaced by `Inert` instead of refused: training metadata beside the weights.
    """

    def __init__(self, file: IO[bytes], *, storages: Storages | None = None, inert: tuple[str, ...] = ()) -> None:
        super().__init__(file, encoding="latin1")  # the encoding under which Python 2 wrote the bytes of arrays
        self._storages = storages
        self._inert_packages = inert
        self.inert_types: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for.

        Raises:
            pickle.UnpicklingError: a name outside the table.
        """
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if module.partition(".")[0] in self._inert_packages:
            return self._inert_type(f"{module}.{name}")
        if self._inert_packages and (module, name) in {("builtins", "getattr"), ("__builtin__", "getattr")}:
            return _Function(self._inert_getattr)  # how pickle writes methods, e.g. those listed in mmengine's logs
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which is neither a tensor, an array nor a plain container. Loading it could "
            "run code, so nothing was loaded"
        )

    def persistent_load(self, pid: Any) -> "_Storage":
        """A storage, which torch keeps outside the pickle.

        Raises:
            pickle.UnpicklingError: not a storage as torch writes it, or no storages in this kind of file.
        """
        if self._storages is None:
            raise pickle.UnpicklingError("it refers to tensors that are not in the file")
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise pickle.UnpicklingError(f"an object that is no tensor storage lies outside the pickle: {pid!r:.80}")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("storages that are views of storages (torch before 0.4) are not supported")
        return _Storage(self._storages(str(pid[2]), pid[1].value, _count(pid[4])))

    def _inert_type(self, name: str) -> type[Inert]:
        if name not in self.inert_types:
            self.inert_types[name] = type(name, (Inert,), {"__slots__": ()})
        return self.inert_types[name]

    def _inert_getattr(self, owner: Any, name: str) -> type[Inert]:
        if not (isinstance(owner, type) and issubclass(owner, Inert)):
            raise pickle.UnpicklingError(f"it asks for the attribute {name!r} of an object")
        return self._inert_type(f"{owner.__name__}.{name}")


def plain(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The tree that an unpickler returned, with stand-ins replaced: by tensors and arrays, `Inert` by None.

    Raises:
        pickle.UnpicklingError: a function or class among the values.
    """
    seen = {} if seen is None else seen
    if isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert)):
        return None
    if isinstance(value, (_Function, type)):
        raise pickle.UnpicklingError("it stores a function or class as a value")
    if isinstance(value, Leaf):
        return value.value
    if not isinstance(value, (dict, list, tuple, set)):
        return value
    if id(value) in seen:  # containers may be shared or hold themselves
        return seen[id(value)][1]
    if isinstance(value, (dict, list)):
        result: Any = {} if isinstance(value, dict) else []
        seen[id(value)] = (value, result)
        if isinstance(value, dict):
            result.update({plain(key, seen): plain(item, seen) for key, item in value.items()})
        else:
            result.extend(plain(item, seen) for item in value)
    else:
        result = type(value)(plain(item, seen) for item in value)
        seen[id(value)] = (value, result)
    return result


class _Function(Leaf):
    """A function that the file may have called, with arguments of the file."""

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)


class _Dict(dict):
    """OrderedDict; a state dict's `_metadata` attribute is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(Leaf):
    """A flat tensor."""


class _StorageType(Leaf):
    """The torch.dtype of a storage class."""


class _Tensor(Leaf):
    """A tensor."""


class _Dtype(Leaf):
    """A numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?([biufc]\d{1,2}|\?)", code)):
            raise pickle.UnpicklingError(f"an array of type {code!r:.40}; only numbers and booleans are read")
        super().__init__(np.dtype(code))

    def __setstate__(self, state: Any) -> None:
        _version, byte_order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("a structured array; only arrays of numbers are read")
        self.value = self.value.newbyteorder(byte_order)


class _Array(Leaf):
    """A numpy.ndarray; pickle makes it empty first and then gives its state."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran_order, data = state
        self.value = _array(data, dtype, shape, "F" if fortran_order else "C")


def _array(data: Any, dtype: Any, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (str, bytes, bytearray, pickle.PickleBuffer)):
        raise pickle.UnpicklingError("an array whose content is not raw numbers")
    if isinstance(data, str):  # bytes written by Python 2
        data = data.encode("latin1")
    array = np.frombuffer(data, dtype=dtype.value).reshape(shape, order=order)
    return array.astype(dtype.value.newbyteorder("="))  # a copy: writable, and in this machine's byte order


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    size, stride = tuple(map(_count, size)), tuple(map(_count, stride))
    if int(np.prod(size, dtype=object)) > storage.value.numel():
        raise pickle.UnpicklingError(f"a tensor of shape {size} over a storage of {storage.value.numel()} numbers")
    return _Tensor(storage.value.as_strided(size, stride, _count(offset)))  # torch checks the bounds


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _count(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise pickle.UnpicklingError(f"{number!r:.40} where a size was expected")
    return number


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes written as text in the encoding {encoding!r:.40}")
    return text.encode("latin1")


def _first(value: Any = (), *_: Any) -> Any:
    return value


def _refuse_call(*_: Any) -> NoReturn:
    raise pickle.UnpicklingError("it calls a class that only names a type")


def _stand_ins() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Dict,
        ("_codecs", "encode"): _Function(_latin1),
        ("numpy", "ndarray"): _Function(_refuse_call),
        ("numpy", "dtype"): _Function(_Dtype),
        ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
        ("torch", "Size"): _Function(_first),
        ("torch", "device"): _Function(_first),
        ("torch.storage", "UntypedStorage"): _StorageType(torch.uint8),
    }
    constructors: dict[str, Callable] = {"set": set, "bytearray": bytearray}
    for name, constructor in constructors.items():
        table["builtins", name] = table["__builtin__", name] = _Function(lambda *args, make=constructor: make(*args))
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        table[f"{core}.multiarray", "_reconstruct"] = _Function(lambda *_: _Array(None))
        table[f"{core}.multiarray", "scalar"] = _Function(lambda dtype, data: _array(data, dtype, ()).item())
        table[f"{core}.numeric", "_frombuffer"] = _Function(lambda *args: Leaf(_array(*args)))
    for kind in ("intlist", "doublelist", "boollist", "tensorlist"):
        table["torch.jit._pickle", f"build_{kind}"] = _Function(_first)
    for name, dtype in _STORAGE_DTYPES.items():
        table["torch", f"{name}Storage"] = _StorageType(dtype)
        dtype_name = str(dtype).removeprefix("torch.")
        table["torch", dtype_name] = Leaf(dtype)
    return table


_STORAGE_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STAND_INS = _stand_ins()
