"""Checkpoints of every kind are read as data; files that are none, or are broken, are named."""

import collections
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoint_files import (
    TENSORS,
    Trap,
    assert_same_tensors,
    swap_data_pickle,
    write_pickle,
    write_stream,
    write_torchscript,
    write_zip,
)

from mta_clip.checkpoint import CheckpointError, read_checkpoint, readers
from mta_clip.checkpoint.readers import METADATA_PACKAGES


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_tensor_beyond_its_storage_is_refused(tmp_path):
    path = tmp_path / "view.pth"
    write_zip({"model": Trap(torch._utils._rebuild_tensor_v2, torch.ones(2).storage(), 0, (4,), (1,), False, {})}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path, metadata_packages=METADATA_PACKAGES)


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_torch_files(tmp_path, write):
    path = tmp_path / "weights.pth"
    state = collections.OrderedDict(TENSORS)
    state._metadata = {"": {"version": 1}}
    write({"model": state, "iteration": 3, "parameter": torch.nn.Parameter(torch.ones(2))}, path)
    content = read_checkpoint(path)
    assert_same_tensors(content["model"])
    assert content["iteration"] == 3
    assert torch.equal(content["parameter"], torch.ones(2))


def test_flipped_bits_are_found_by_checksums(tmp_path):
    path = tmp_path / "weights.pth"
    write_zip(TENSORS, path)
    weight = TENSORS["weight"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(weight, weight[:-1] + b"\x41", 1))
    with pytest.raises(CheckpointError, match=r"weights\.pth: damaged: the checksum of .* is wrong"):
        read_checkpoint(path)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    for write in (write_zip, write_stream):
        write(TENSORS, tmp_path / "weights.safetensors")
        assert_same_tensors(read_checkpoint(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_numpy_objects_in_torch_files(tmp_path, write, request):
    """mmsegmentation stores its best score as a number of numpy."""
    path = tmp_path / "best.pth"
    array = np.arange(3.0)
    write({"meta": {"best": np.float64(0.5), "history": [array, (array, {1})], "sizes": torch.Size([2])}}, path)
    torch.serialization.add_safe_globals([Trap])  # what a user allows
    request.addfinalizer(torch.serialization.clear_safe_globals)
    allowed = set(torch.serialization.get_safe_globals())
    meta = read_checkpoint(path)["meta"]
    assert (
        set(torch.serialization.get_safe_globals()) == allowed
    )  # other uses of torch.load stay as strict as they were
    assert type(meta["best"]) is float and meta["best"] == 0.5
    assert meta["sizes"] == torch.Size([2]) and meta["history"][1][1] == {1}
    for stored in (meta["history"][0], meta["history"][1][0]):
        np.testing.assert_array_equal(stored, array)


def test_safetensors(tmp_path):
    path = tmp_path / "weights.any"
    safetensors.torch.save_file({name: value.contiguous() for name, value in TENSORS.items()}, path)
    content = read_checkpoint(path)
    assert_same_tensors(dict(sorted(content.items())), dict(sorted(TENSORS.items())))


class TinyModule(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)])
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.sizes = [1, 2]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return torch.nn.functional.gelu(x) * self.scale + self.sizes[0]  # GELU moves the archive's entry `version`


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(4, 2))], ids=["script", "trace"]
)
def test_torchscript_gives_the_state_dict_without_running(tmp_path, make, monkeypatch):
    module = make(TinyModule()).half()
    path = tmp_path / "clip.pt"
    torch.jit.save(module, path)
    monkeypatch.setattr(torch.jit, "load", None)
    content = read_checkpoint(path)
    assert_same_tensors(dict(sorted(content.items())), dict(sorted(module.state_dict().items())))


@pytest.fixture
def mmengine_objects(monkeypatch):
    """A log object as mmengine pickles it: a class of its own with arrays and references to its methods."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self.values, self.methods = np.arange(3.0), {"mean": HistoryBuffer.mean}

        def mean(self):
            """A statistic."""

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    return HistoryBuffer()


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_logs_of_mmengine_become_none(tmp_path, mmengine_objects, monkeypatch, write):
    path = tmp_path / "iter_160000.pth"
    log = collections.OrderedDict({"train/loss": mmengine_objects})
    write({"meta": {"iter": 160000}, "state_dict": dict(TENSORS), "message_hub": {"log_scalars": log}}, path)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CheckpointError, match=r"names mmengine\.logging\.history_buffer\.HistoryBuffer"):
        read_checkpoint(path)
    content = read_checkpoint(path, metadata_packages=METADATA_PACKAGES)
    assert_same_tensors(content["state_dict"])
    assert content["meta"] == {"iter": 160000}
    assert content["message_hub"] == {"log_scalars": {"train/loss": None}}
    assert "mmengine" not in sys.modules


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a checkpoint"),
        (b"<!DOCTYPE html><html>", "error page"),
        (b"version https://git-lfs.github.com/spec/v1", "not a checkpoint"),
        (b"PK\x03\x04 and then nothing", "cannot be read"),
        (b"\x80\x02}q\x00(X\x05", "cannot be read"),
    ],
)
def test_other_files_are_named(tmp_path, data, message):
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"file\.pth.*{message}"):
        read_checkpoint(path)


@pytest.mark.parametrize("write", [write_zip, write_stream, write_pickle])
def test_truncated_files_are_named(tmp_path, write):
    path = tmp_path / "cut.pth"
    write({"model": {"weight": torch.ones(100, 100) if write is not write_pickle else np.ones((100, 100))}}, path)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        read_checkpoint(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*: no such checkpoint file"):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_zip_that_torch_did_not_write(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(CheckpointError, match="zip archive, but not one"):
        read_checkpoint(path)


def test_compressed_weights_are_refused(tmp_path):
    """A small file must not unfold to fill the memory."""
    path, evil = tmp_path / "a.pth", tmp_path / "bomb.pth"
    write_zip({"w": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    with pytest.raises(CheckpointError, match=r"bomb\.pth.*compressed"):
        read_checkpoint(evil)


def test_weights_larger_than_the_file_are_refused(tmp_path):
    """One number seen as many, and a storage whose numbers the file does not have: both would fill the memory later."""
    path = tmp_path / "bomb.pth"
    for write in (write_zip, write_stream):
        write({"w": torch.zeros(1).expand(10**9)}, path)
        with pytest.raises(CheckpointError, match=r"bomb\.pth.*a tensor of 4000000000 bytes in a file of"):
            read_checkpoint(path)
    write_stream({"w": torch.zeros(1000)}, path)
    data = path.read_bytes()
    keys = data.rindex(b"\x80\x02]")  # the last pickle lists the storages that follow
    path.write_bytes(data[:keys].replace(b"M\xe8\x03", b"J\x00\x00\x00\x01") + b"\x80\x02].")
    with pytest.raises(CheckpointError, match=r"bomb\.pth.*a tensor of 67108864 bytes in a file of"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_modules_without_end_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "loop.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path)
    monkeypatch.setattr(readers, "_MAX_MODULES", 1)
    assert sorted(read_checkpoint(path)) == ["bias", "weight"]
    monkeypatch.setattr(readers, "_MAX_MODULES", 100)
    write_torchscript({}, path)
    module = b"\x80\x02c__torch__\nLoop\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."  # its attribute `a` is itself
    swap_data_pickle(path, module)
    with pytest.raises(CheckpointError, match=r"loop\.pt.*more than 100 modules"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["constants.pkl", "CONSTANTS.PKL", "x/constants.pkl"])
def test_torchscript_is_never_given_to_torch(tmp_path, monkeypatch, name):
    """Before version 2.6, torch.load ran whatever it took for TorchScript."""
    path, other = tmp_path / "clip.pt", tmp_path / "other.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename.replace("constants.pkl", name), source.read(info))
    given = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: given.append(file) or load(file, **options))
    assert sorted(read_checkpoint(other)) == ["bias", "weight"]
    with zipfile.ZipFile(given[0]) as archive:
        assert not [entry for entry in archive.namelist() if "constants" in entry.lower() or "code" in entry]


def test_a_torchscript_archive_holds_a_module(tmp_path):
    path = tmp_path / "no_module.pt"
    write_zip({"weight": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("no_module/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="without a module"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [3, 4])
def test_another_pickle_protocol_is_named(tmp_path, protocol):
    path = tmp_path / "protocol.pth"
    torch.save({"weight": torch.ones(1)}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=rf"protocol\.pth.*pickle protocol {protocol}.*save it again"):
        read_checkpoint(path)


def test_tied_tensors_share_memory(tmp_path):
    weight = torch.ones(3)
    for write in (write_zip, write_stream):
        buffer = tmp_path / "tied.pth"
        write({"a": weight, "b": weight[1:]}, buffer)
        content = read_checkpoint(buffer)
        content["a"][1] = 5
        assert content["b"][0] == 5
