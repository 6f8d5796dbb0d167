"""Reads all kinds of checkpoint files, recognised by their content, without running code from them.

| kind | written by | read by |
|---|---|---|
| safetensors | this project, the hubs | safetensors |
| zip archive or stream of torch.save | torch since 1.6 and before, mmengine | torch.load(weights_only=True) |
| TorchScript archive | torch.jit.save (OpenAI's CLIP) | torch.load(weights_only=True), without its code |
| plain pickle | Detectron2, Caffe2 | our unpickler |

Objects beside the weights, such as mmengine's logs, are read as stand-ins (see `restricted_pickle`).
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

from .restricted_pickle import STAND_INS, ArrayUnpickler, StandIn, plain, refused

_ZIP = b"PK\x03\x04"
_TORCH_STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, as a pickle of its own
# Packages whose checkpoints hold logs and settings as objects beside the weights.
METADATA_PACKAGES = ("mmengine", "mmcv", "mmseg", "mmdet")
_MAX_MODULES = 100_000  # of a TorchScript archive; reading a module that contains itself would never end


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, is not safe to load, or does not fit the model."""


def read_checkpoint(path: str | Path, *, metadata_packages: tuple[str, ...] = ()) -> Any:
    """Reads a checkpoint of any of the kinds above.

    Args:
        metadata_packages: objects of these packages become None instead of an error; see METADATA_PACKAGES.

    Returns:
        What was saved, made of plain containers, numbers, strings, tensors (on the CPU) and arrays; for a safetensors
        or TorchScript file {name: tensor}.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: it is not a checkpoint, is damaged, names code to run, would unfold to more than its own size,
            or is a .pth of pickle protocol 3 or higher.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    with path.open("rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    try:
        if head.startswith(_ZIP):
            content = _read_archive(path, metadata_packages)
        elif len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < size:
            content = safetensors.torch.load_file(path)
        elif head.startswith(_TORCH_STREAM):
            content = _read_stream(path, metadata_packages)
        elif head[:1] in (b"\x80", b"}", b"(", b"c"):  # protocol 2 and later; a dict or object of protocol 0 and 1
            with path.open("rb") as file:
                content = ArrayUnpickler(file, encoding="latin1").load()
        else:
            raise CheckpointError(
                f"not a checkpoint (safetensors, .pth, .pkl or TorchScript); it starts with {head[:16]!r}. "
                "If you downloaded it, check that you did not get an error page instead"
            )
        return plain(content, size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damaged or malicious files can make the readers raise nearly any exception
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error or type(error).__name__}") from error


def _read_archive(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError("a zip archive, but not one that torch.save or torch.jit.save of torch >= 1.6 wrote")
        folder = pickles[0].removesuffix("data.pkl")
        script = any(name.lower().endswith("constants.pkl") for name in names)  # torch 2.4 would run its code
        data = tuple(folder + name for name in ("data.pkl", "data/", "byteorder", "version", ".data/version"))
        entries = [info for info in archive.infolist() if not script or info.filename.startswith(data)]
        if sum(info.file_size for info in entries) > path.stat().st_size:  # torch compresses none of them
            raise CheckpointError("its entries are compressed and larger than the file, which torch never writes")
        if broken := archive.testzip():  # torch does not look at checksums
            raise CheckpointError(f"damaged: the checksum of {broken} is wrong. Copy or download the file again")
        with archive.open(pickles[0]) as file:
            found = _names(file)
        if not script:
            with path.open("rb") as file:  # not the path, whose suffix torch would believe
                return _load(file, found, metadata_packages)
        copy = io.BytesIO()  # without the code: torch.load refuses an archive that has some
        with zipfile.ZipFile(copy, "w") as target:
            for info in entries:
                target.writestr(info.filename, archive.read(info))
    copy.seek(0)
    return _tensors_of(_load(copy, found, ("__torch__", "torch.jit._pickle")))


def _read_stream(path: Path, metadata_packages: tuple[str, ...]) -> Any:
    """Torch before 1.6: five pickles (magic, version, system, content, storage keys), then the storages."""
    file = io.BytesIO(path.read_bytes())  # not the file itself, which older torch would also try to read as a .tar
    found = set().union(*(_names(file) for _ in range(4)))
    file.seek(0)
    return _load(file, found, metadata_packages)


def _names(file: IO[bytes]) -> set[str]:
    """The functions and classes that the next pickle in a file names, e.g. "collections.OrderedDict"."""
    names = set()
    argument: Any  # what it is depends on the opcode
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            names.add(argument.replace(" ", "."))
        elif opcode.name == "PROTO" and argument > 2:
            raise CheckpointError(
                f"written with pickle protocol {argument}, which torch.load(weights_only=True) does not read. If you "
                "trust the file, load it with torch.load(weights_only=False) and save it again with torch.save, "
                "without pickle_protocol"
            )
    return names


def _load(file: IO[bytes], found: set[str], packages: tuple[str, ...]) -> Any:
    """torch.load(weights_only=True), with stand-ins for those `found` names that are of numpy or of the packages."""
    inert = tuple(f"{package}." for package in packages)
    if packages:  # pickle writes methods this way, such as those in mmengine's logs
        inert += ("__builtin__.getattr", "builtins.getattr")
    stand_ins: list[Any] = []
    for name in found:
        if name in STAND_INS or name.startswith(inert):
            module, _, attribute = name.replace("__builtin__", "builtins").rpartition(".")
            stand_ins.append(type(attribute, (STAND_INS.get(name, StandIn),), {"__module__": module}))
    allowed = list(torch.serialization.get_safe_globals())  # a copy: torch 2.4 returns its own list
    torch.serialization.add_safe_globals(stand_ins)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message suggests to trust the file; ours names what is refused
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        match = re.search(r"GLOBAL (\S+)", reason)
        raise refused(match[1]) if match else pickle.UnpicklingError(reason.strip().partition("\n")[0]) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _tensors_of(module: Any) -> dict[str, Tensor]:
    """The tensors of a saved script module, named by their attribute path as in its state_dict."""
    if not isinstance(module, StandIn):
        raise CheckpointError("a TorchScript archive without a module")
    tensors = {}
    modules = [("", module)]
    for prefix, owner in modules:
        for name, value in owner.state.items() if isinstance(owner.state, dict) else ():
            if isinstance(value, StandIn):
                modules.append((f"{prefix}{name}.", value))
            elif isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
        if len(modules) > _MAX_MODULES:
            raise CheckpointError(f"it has more than {_MAX_MODULES} modules; does {prefix[:80]!r} contain itself?")
    return tensors
