"""Opens checkpoint files of every kind this project meets, recognised by content, without running code from them.

| kind | written by | read by |
|---|---|---|
| safetensors | this project, the hubs | safetensors |
| zip archive of torch.save | torch 1.6 and later, mmengine | torch.load(weights_only=True), else our unpickler |
| stream of torch.save | torch before 1.6 | our unpickler |
| TorchScript archive | torch.jit.save (OpenAI's CLIP) | our unpickler, as data |
| plain pickle | Detectron2, Caffe2 | our unpickler |
"""

import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .restricted_pickle import Inert, Leaf, RestrictedUnpickler, plain

_ZIP = b"PK\x03\x04"
_TORCH_STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, as a pickle of its own
# Their checkpoints carry logs and settings as objects beside the weights.
METADATA_PACKAGES = ("mmengine", "mmcv", "mmseg", "mmdet")


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint, does not fit, or is not safe to load."""


def read_checkpoint(path: str | Path, *, metadata_packages: tuple[str, ...] = ()) -> Any:
    """Reads a checkpoint of any of the kinds above.

    Args:
        metadata_packages: objects of these packages become None instead of an error, as in METADATA_PACKAGES.

    Returns:
        What was saved, of plain containers, numbers, strings, tensors (on the CPU) and arrays; of a safetensors or
        TorchScript file the tensors by name.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a checkpoint, damaged, or it names code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    with path.open("rb") as file:
        head = file.read(64)
    try:
        if head.startswith(_ZIP):
            return _read_archive(path, metadata_packages)
        if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size:
            return safetensors.torch.load_file(path)
        if head.startswith(_TORCH_STREAM):
            return _read_stream(path, metadata_packages)
        if head[:1] in (b"\x80", b"}", b"(", b"c"):  # protocol 2 and later; a dict or object of protocol 0 and 1
            with path.open("rb") as file:
                return _unpickle(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (  # what damaged or crafted files make the readers raise
        pickle.UnpicklingError, zipfile.BadZipFile, safetensors.SafetensorError, EOFError, ValueError, TypeError,
        KeyError, IndexError, AttributeError, ImportError, RuntimeError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error or type(error).__name__}") from error
    raise CheckpointError(
        f"{path}: not a checkpoint (safetensors, .pth, .pkl or TorchScript); it starts with {head[:16]!r}. "
        "If it was downloaded, look whether the download gave an error page instead"
    )


def _unpickle(file: IO[bytes], **options: Any) -> Any:
    return plain(RestrictedUnpickler(file, **options).load())


def _read_archive(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError("a zip archive, but not one that torch.save or torch.jit.save of torch >= 1.6 wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            return _read_torchscript(archive, folder)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            with _ArchiveStorages(archive, folder).open("data.pkl") as file:
                return _unpickle(file, storages=_ArchiveStorages(archive, folder), inert=metadata_packages)


class _ArchiveStorages:
    """Tensor storages of a zip archive, each in an entry `<folder>data/<key>`."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._flat: dict[str, Tensor] = {}
        byte_order = f"{folder}byteorder"
        if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
            raise CheckpointError("written on a big-endian machine, which is not supported")

    def open(self, name: str) -> IO[bytes]:
        entry = self._archive.getinfo(self._folder + name)
        if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses these; a small file must not unfold
            raise CheckpointError(f"the entry {entry.filename} is compressed, which torch does not do")
        return self._archive.open(entry)

    def __call__(self, key: str, dtype: torch.dtype, numel: int) -> Tensor:
        if key not in self._flat:
            with self.open(f"data/{key}") as file:
                self._flat[key] = _flat_tensor(bytearray(file.read()), dtype, numel)
        return self._flat[key]


def _flat_tensor(data: bytearray, dtype: torch.dtype, numel: int) -> Tensor:
    if len(data) != numel * dtype.itemsize:
        raise CheckpointError(f"a storage of {len(data)} bytes where {numel} x {dtype} were expected")
    return torch.frombuffer(data, dtype=dtype) if numel else torch.empty(0, dtype=dtype)


def _read_stream(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    """Torch before 1.6: five pickles (magic, version, system, content, storage keys), then the storages."""
    size = path.stat().st_size
    storages: dict[str, bytearray] = {}

    def reserve(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        if numel * dtype.itemsize > size:
            raise CheckpointError(f"a storage of {numel} x {dtype} in a file of {size} bytes")
        if key not in storages:
            storages[key] = bytearray(numel * dtype.itemsize)
        return _flat_tensor(storages[key], dtype, numel)

    with path.open("rb") as file:
        for _ in range(2):
            _unpickle(file)
        if _unpickle(file).get("little_endian") is False:
            raise CheckpointError("written on a big-endian machine, which is not supported")
        content = _unpickle(file, storages=reserve, inert=metadata_packages)
        for key in map(str, _unpickle(file)):
            numel = struct.unpack("<q", file.read(8))[0]
            data = storages[key]
            if numel < 0 or len(data) % max(numel, 1) or file.readinto(data) != len(data):
                raise CheckpointError(f"the storage {key} is cut off or has another size than its tensors")
    return content


def _read_torchscript(archive: zipfile.ZipFile, folder: str) -> dict[str, Tensor]:
    """The tensors of a saved script module, named by their attribute path, as its state_dict would name them."""
    storages = _ArchiveStorages(archive, folder)
    with storages.open("data.pkl") as file:
        module = RestrictedUnpickler(file, storages=storages, inert=("__torch__",)).load()
    if not isinstance(module, Inert):
        raise CheckpointError("a TorchScript archive without a module")
    return dict(_tensors_of(module, "", []))


def _tensors_of(module: Inert, prefix: str, parents: list[Inert]) -> Iterator[tuple[str, Tensor]]:
    if any(module is parent for parent in parents):
        raise CheckpointError(f"the module {prefix!r} contains itself")
    for name, value in module.attributes.items():
        if isinstance(value, Inert):
            yield from _tensors_of(value, f"{prefix}{name}.", [*parents, module])
        elif isinstance(value, Leaf) and isinstance(value.value, Tensor):
            yield prefix + str(name), value.value
