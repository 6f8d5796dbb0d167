"""Checkpoints of every kind are read as data; whatever names code to run is refused, and nothing of it runs."""

import collections
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from mta_clip.checkpoint import CheckpointError, read_checkpoint
from mta_clip.checkpoint.readers import METADATA_PACKAGES

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
}


def assert_same_tensors(actual, expected=TENSORS):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert torch.equal(actual[name], value), name


class Trap:
    """Pickles into a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def traps(flag):
    """Calls that would leave a file behind, by kind."""
    code = f"open({str(flag)!r}, 'w').close()"
    return {
        "os.system": Trap(os.system, f"touch {flag}"),
        "builtins.eval": Trap(eval, code),
        "builtins.exec": Trap(exec, code),
        "builtins.open": Trap(open, str(flag), "w"),
        "getattr": Trap(getattr, Trap(__import__, "os"), "system"),
        "torch.hub": Trap(torch.hub.load, str(flag.parent), "entry"),
        "torch.load": Trap(torch.load, str(flag)),
        "numpy.load": Trap(np.load, str(flag)),
        "numpy.fromfile": Trap(np.memmap, str(flag), "uint8", "w+", 0, (1,)),
    }


TRAPS = list(traps(__import__("pathlib").Path("/x")))
NESTS = {
    "alone": lambda trap, weight: trap,
    "a value of the state": lambda trap, weight: {"model": {"weight": weight, "bias": trap}},
    "beside the state": lambda trap, weight: {"state_dict": {"weight": weight}, "meta": {"hooks": [({"a": trap},)]}},
    "an optimizer state": lambda trap, weight: {"model": {}, "optimizer": {"state": {0: {"step": trap}}}},
}


def write_zip(content, path):
    torch.save(content, path)


def write_stream(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_pickle_4(content, path):
    path.write_bytes(pickle.dumps(content, protocol=4))


def write_torchscript(content, path):
    """A TorchScript archive whose data.pkl was replaced."""
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), path)
    swap_data_pickle(path, pickle.dumps(content, protocol=2))


def swap_data_pickle(path, data):
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, data if name.endswith("/data.pkl") else value)


WRITERS = (write_zip, write_stream, write_pickle, write_pickle_4, write_torchscript)


@pytest.mark.filterwarnings("ignore")  # torch.jit announces its end
@pytest.mark.parametrize("packages", [(), METADATA_PACKAGES], ids=["strict", "metadata"])
@pytest.mark.parametrize("nest", NESTS, ids=[name.replace(" ", "_") for name in NESTS])
@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("write", WRITERS)
def test_code_in_a_file_does_not_run(tmp_path, write, trap, nest, packages):
    flag = tmp_path / "it_ran"
    path = tmp_path / "evil.pth"
    weight = np.ones(2) if write in (write_pickle, write_pickle_4) else torch.ones(2)
    write(NESTS[nest](traps(flag)[trap], weight), path)
    with pytest.raises(CheckpointError, match=r"evil\.pth.*it names \S+, which is neither a tensor"):
        read_checkpoint(path, metadata_packages=packages)
    assert not flag.exists()


def test_the_traps_do_spring_with_plain_pickle(tmp_path):
    flag = tmp_path / "it_ran"
    for trap in ("os.system", "builtins.eval", "builtins.exec", "builtins.open"):
        pickle.loads(pickle.dumps(traps(flag)[trap]))
        assert flag.exists(), trap
        flag.unlink()


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02ccollections\nOrderedDict\n(N}X\x01\x00\x00\x00aK\x01stb.",  # BUILD on a class
        b"\x80\x02ccollections\nOrderedDict\n.",  # a class as a value
        b"\x80\x02cnumpy\nndarray\n(N}X\x05\x00\x00\x00valuecbuiltins\nset\nstb.",  # BUILD on a function
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",  # an array type that holds objects
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00aNtb.",  # fields
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)X\x02\x00\x00\x00f4\x89]tb.",  # its type is a string
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",  # a class of ours as a value
        b"\x80\x02}cnumpy\ndtype\nK\x01s.",  # and as a key
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.",  # tensors are not in plain pickles
        b"\x80\x02cbuiltins\nset\n(N}X\x01\x00\x00\x00aK\x01stb.",  # BUILD on a class of Python
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",  # bytes in another encoding
        b"\x80\x02cnumpy\ndtype\n)\x81(K\x03X\x01\x00\x00\x00<NNNtb.",  # a dtype that was never initialised
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists nested too deep
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # something outside the pickle
        b"\x80\x02\x82\x01.",  # an extension code
    ],
)
def test_crafted_opcodes_are_refused(tmp_path, code):
    path = tmp_path / "crafted.pkl"
    path.write_bytes(code)
    with pytest.raises(CheckpointError, match="crafted"):
        read_checkpoint(path)
    write_pickle({"a": collections.OrderedDict(b=np.ones(1))}, path)  # the stand-ins work as before
    assert read_checkpoint(path) == {"a": {"b": np.ones(1)}}


@pytest.mark.parametrize("write", [write_zip, write_stream])
@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",  # an array type that holds objects
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)X\x02\x00\x00\x00f4\x89]tb.",  # its type is a string
        b"\x80\x02cmmengine\nConfig\n.",  # a class as a value
        b"\x80\x02cmmengine\nConfig\n}X\x01\x00\x00\x00aK\x01sb.",  # BUILD on a class
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # something outside the pickle
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # named by another opcode than torch writes
        b"",
    ],
)
def test_crafted_opcodes_in_torch_files_are_refused(tmp_path, write, code):
    path = tmp_path / "crafted.pth"
    write({}, path)
    if write is write_zip:
        swap_data_pickle(path, code)
    else:
        path.write_bytes(path.read_bytes().replace(pickle.dumps({}, protocol=2), code))
    with pytest.raises(CheckpointError, match="crafted"):
        read_checkpoint(path, metadata_packages=METADATA_PACKAGES)


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


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_numpy_objects_in_torch_files(tmp_path, write):
    """mmsegmentation stores its best score as a number of numpy."""
    path = tmp_path / "best.pth"
    array = np.arange(3.0)
    write({"meta": {"best": np.float64(0.5), "history": [array, (array, {1})], "sizes": torch.Size([2])}}, path)
    allowed = set(torch.serialization.get_safe_globals())
    meta = read_checkpoint(path)["meta"]
    assert (
        set(torch.serialization.get_safe_globals()) == allowed
    )  # other uses of torch.load stay as strict as they were
    assert type(meta["best"]) is float and meta["best"] == 0.5
    assert meta["sizes"] == torch.Size([2]) and meta["history"][1][1] == {1}
    for stored in (meta["history"][0], meta["history"][1][0]):
        np.testing.assert_array_equal(stored, array)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickled_arrays(tmp_path, protocol):
    arrays = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f8"),
        "scalar": np.array(5),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 4)),
    }
    path = tmp_path / "model.pkl"
    content = {"model": arrays, "__author__": "a", "matching_heuristics": True, "number": np.float64(2.5)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    result = read_checkpoint(path)
    assert result["number"] == 2.5 and result["matching_heuristics"] is True
    for name, array in arrays.items():
        assert result["model"][name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(result["model"][name], array)
        torch.from_numpy(result["model"][name])


def test_arrays_pickled_by_python_2(tmp_path):
    """There str is bytes, so the numbers come as a string, and NumPy 1 has other module names."""
    raw = struct.pack("<2f", 1.5, -200.25)
    code = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(code)
    np.testing.assert_array_equal(read_checkpoint(path)["w"], np.array([1.5, -200.25], np.float32))


@pytest.mark.parametrize("write", [write_pickle, write_zip])
@pytest.mark.parametrize(
    "array", [np.array([{"a": 1}, "b"], dtype=object), np.zeros(1, dtype=[("a", "f4")]), np.array(["text"])]
)
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path, write, array):
    path = tmp_path / "objects.pkl"
    write({"names": array}, path)
    with pytest.raises(CheckpointError, match=r"objects\.pkl.*only (arrays of )?numbers"):
        read_checkpoint(path)


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
    with pytest.raises(FileNotFoundError, match="nowhere"):
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
def test_torchscript_modules_without_end_are_refused(tmp_path):
    path = tmp_path / "loop.pt"
    write_torchscript({}, path)
    module = b"\x80\x02c__torch__\nLoop\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."  # its attribute `a` is itself
    swap_data_pickle(path, module)
    with pytest.raises(CheckpointError, match=r"loop\.pt.*more than 100000 modules"):
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


def test_another_pickle_protocol_is_named(tmp_path):
    path = tmp_path / "protocol.pth"
    torch.save({"weight": torch.ones(1)}, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"protocol\.pth.*pickle protocol 4.*save it again"):
        read_checkpoint(path)


def test_shared_tuples_take_no_time(tmp_path):
    """Each holds the one before twice: 2 ** 60 paths to the first."""
    pairs = ()
    for _ in range(60):
        pairs = (pairs, pairs)
    path = tmp_path / "pairs.pkl"
    write_pickle({"pairs": pairs}, path)
    assert len(read_checkpoint(path)["pairs"]) == 2


def test_containers_that_hold_themselves(tmp_path):
    loop = [1]
    loop.append(loop)
    path = tmp_path / "loop.pkl"
    write_pickle({"loop": loop}, path)
    result = read_checkpoint(path)["loop"]
    assert result[0] == 1 and result[1] is result


def test_tied_tensors_share_memory(tmp_path):
    weight = torch.ones(3)
    for write in (write_zip, write_stream):
        buffer = tmp_path / "tied.pth"
        write({"a": weight, "b": weight[1:]}, buffer)
        content = read_checkpoint(buffer)
        content["a"][1] = 5
        assert content["b"][0] == 5
