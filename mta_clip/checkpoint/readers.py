"""Opens checkpoint files of every kind this project meets, recognised by content, without running code from them.

| kind | written by | read by |
|---|---|---|
| safetensors | this project, the hubs | safetensors |
| zip archive or stream of torch.save | torch since 1.6 and before, mmengine | torch.load(weights_only=True) |
| TorchScript archive | torch.jit.save (OpenAI's CLIP) | its data alone, by torch.load(weights_only=True) |
| plain pickle | Detectron2, Caffe2 | our unpickler |

Objects beside the weights, such as mmengine's logs, are read as stand-ins.
"""

import io
import pickle
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from .restricted_pickle import STAND_INS, ArrayUnpickler, StandIn, plain, refused, require_size

_ZIP = b"PK\x03\x04"
_TORCH_STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, as a pickle of its own
# Their checkpoints carry logs and settings as objects beside the weights.
METADATA_PACKAGES = ("mmengine", "mmcv", "mmseg", "mmdet")
_MAX_MODULES = 100_000  # of a TorchScript archive; a module that contains itself would have no end


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
    size = path.stat().st_size
    try:
        if head.startswith(_ZIP):
            return _read_archive(path, metadata_packages)
        if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size:
            return safetensors.torch.load_file(path)
        if head.startswith(_TORCH_STREAM):
            return _read_stream(path, metadata_packages)
        if head[:1] in (b"\x80", b"}", b"(", b"c"):  # protocol 2 and later; a dict or object of protocol 0 and 1
            with path.open("rb") as file:
                return plain(ArrayUnpickler(file, encoding="latin1").load(), size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damaged and crafted files make the readers raise nearly anything
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error or type(error).__name__}") from error
    raise CheckpointError(
        f"{path}: not a checkpoint (safetensors, .pth, .pkl or TorchScript); it starts with {head[:16]!r}. "
        "If it was downloaded, look whether the download gave an error page instead"
    )


def _read_archive(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError("a zip archive, but not one that torch.save or torch.jit.save of torch >= 1.6 wrote")
        folder = pickles[0].removesuffix("data.pkl")
        script = any(name.lower().endswith("constants.pkl") for name in names)  # torch 2.4 would run its code
        data = tuple(folder + name for name in ("data.pkl", "data/", "byteorder", "version", ".data/version"))
        entries = [info for info in archive.infolist() if not script or info.filename.startswith(data)]
        if sum(info.file_size for info in entries) > size:  # torch compresses none of them
            raise CheckpointError("its entries are compressed and larger than the file, which torch does not write")
        with archive.open(pickles[0]) as file:
            found = _names(file)
        if not script:
            return plain(_load(path, found, metadata_packages), size)
        copy = io.BytesIO()  # without the code, with which torch.load refuses the archive
        with zipfile.ZipFile(copy, "w") as target:
            for info in entries:
                target.writestr(info.filename, archive.read(info))
    copy.seek(0)
    return _tensors_of(_load(copy, found, ("__torch__", "torch.jit._pickle")), size)


def _read_stream(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    """Torch before 1.6: five pickles (magic, version, system, content, storage keys), then the storages."""
    file = io.BytesIO(path.read_bytes())  # not the file itself, which older torch would also try as a .tar
    found = set().union(*(_names(file) for _ in range(4)))
    file.seek(0)
    return plain(_load(file, found, metadata_packages), len(file.getbuffer()))


def _names(file: IO[bytes]) -> set[str]:
    """The functions and classes that the next pickle in a file names, e.g. "collections.OrderedDict"."""
    names = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.add(argument.replace(" ", "."))
        elif opcode.name == "PROTO" and argument > 2:
            raise CheckpointError(
                f"written with pickle protocol {argument}, which torch.load(weights_only=True) does not read. Load it "
                "where you trust it and save it again by torch.save without pickle_protocol"
            )
    return names


def _load(file: Path | IO[bytes], found: set[str], packages: tuple[str, ...]) -> Any:
    """torch.load(weights_only=True), with stand-ins for numpy and for classes of the packages.

    Args:
        found: the names in the file's pickle.
    """
    inert = [f"{package}." for package in packages]
    if packages:  # how pickle writes methods, such as those in mmengine's logs
        inert += ["__builtin__.getattr", "builtins.getattr"]
    stand_ins = []
    for name in found:
        if name in STAND_INS or name.startswith(tuple(inert)):
            module, _, attribute = name.replace("__builtin__", "builtins").rpartition(".")
            stand_ins.append(type(attribute, (STAND_INS.get(name, StandIn),), {"__module__": module}))
    allowed = list(torch.serialization.get_safe_globals())  # a copy: torch 2.4 gives its own list
    torch.serialization.add_safe_globals(stand_ins)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose message advises to trust the file
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        name = re.search(r"GLOBAL (\S+)", reason)
        raise refused(name[1]) if name else pickle.UnpicklingError(reason.strip().partition("\n")[0]) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _tensors_of(module: Any, size: int) -> dict[str, Tensor]:
    """The tensors of a saved script module, named by their attribute path, as its state_dict would name them."""
    if not isinstance(module, StandIn):
        raise CheckpointError("a TorchScript archive without a module")
    tensors = {}
    modules = [("", module)]
    for prefix, owner in modules:
        for name, value in owner.state.items() if isinstance(owner.state, dict) else ():
            if isinstance(value, StandIn):
                modules.append((f"{prefix}{name}.", value))
            elif isinstance(value, Tensor):
                require_size(value, size)
                tensors[f"{prefix}{name}"] = value
        if len(modules) > _MAX_MODULES:
            raise CheckpointError(f"it has more than {_MAX_MODULES} modules; does {prefix[:80]!r} contain itself?")
    return tensors
