"""Whatever names code to run is refused, by each way of reading a pickle, and nothing of it runs."""

import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import (
    Trap,
    swap_data_pickle,
    write_pickle,
    write_pickle_4,
    write_stream,
    write_torchscript,
    write_zip,
)

from mta_clip.checkpoint import CheckpointError, read_checkpoint
from mta_clip.checkpoint.readers import METADATA_PACKAGES


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


TRAPS = list(traps(Path("/x")))


NESTS = {
    "alone": lambda trap, weight: trap,
    "a value of the state": lambda trap, weight: {"model": {"weight": weight, "bias": trap}},
    "beside the state": lambda trap, weight: {"state_dict": {"weight": weight}, "meta": {"hooks": [({"a": trap},)]}},
    "an optimizer state": lambda trap, weight: {"model": {}, "optimizer": {"state": {0: {"step": trap}}}},
}


WRITERS = (write_zip, write_stream, write_pickle, write_pickle_4, write_torchscript)


PACKAGES = ((), METADATA_PACKAGES)
# Two unpicklers, torch's and ours, refuse each name, torch's also where names of metadata packages are let through;
# every format has them refused wherever they stand.
CALLS = [(write_zip, trap, "alone", packages) for trap in TRAPS for packages in PACKAGES]
CALLS += [(write_pickle, trap, "alone", ()) for trap in TRAPS]
PLACES = [
    (write, TRAPS[i + j], nest, PACKAGES[(i + j) % 2])
    for i, write in enumerate(WRITERS)
    for j, nest in enumerate(NESTS)
]


DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R"  # a pickle of numpy's float32


def id_of(value):
    return getattr(value, "__name__", None) or (value.replace(" ", "_") if isinstance(value, str) else "metadata")


@pytest.mark.filterwarnings("ignore")  # torch.jit announces its end
@pytest.mark.parametrize(("write", "trap", "nest", "packages"), [*CALLS, *PLACES], ids=id_of)
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
    content = {"model": arrays, "__author__": "a", "matching_heuristics": True, "number": np.float64(2.5), "set": {1}}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    result = read_checkpoint(path)
    assert result["number"] == 2.5 and result["matching_heuristics"] is True and result["set"] == {1}
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


@pytest.mark.parametrize(
    ("dtype", "data"), [(b"cnumpy\ndtype\n)\x81", b"C\x04\0\0\0\0"), (b"N", b"C\0"), (DTYPE, b"]")]
)
def test_arrays_without_a_type_or_numbers_are_named(tmp_path, dtype, data):
    path = tmp_path / "array.pkl"
    path.write_bytes(b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n)R(K\x01)" + dtype + b"\x89" + data + b"tb.")
    with pytest.raises(CheckpointError, match=r"array\.pkl.*an array whose content is not raw numbers"):
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
