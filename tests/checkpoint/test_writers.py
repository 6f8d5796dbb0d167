import collections
import contextlib
import os
import resource

import numpy as np
import pytest
import safetensors.torch
import torch

from mta_clip.checkpoint import read_checkpoint
from mta_clip.checkpoint.writers import require_known_suffix, require_plain, save_plain, save_weights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}


def assert_same(actual):
    assert actual.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(actual[name], value) and actual[name].dtype == value.dtype


def test_plain_data_is_read_back_by_torchs_safe_loader(tmp_path):
    data = {"model": STATE, "rng": (3, [1, 2], None), "name": "run", "order": collections.OrderedDict(a=1.5)}
    save_plain(data, tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert_same(content.pop("model"))
    assert content == {name: value for name, value in data.items() if name != "model"}


@pytest.mark.parametrize(("name", "wrapped"), [("a.safetensors", True), ("a.pth", True), ("a.pth", False)])
def test_weights_in_both_formats(tmp_path, name, wrapped):
    save_weights(STATE, tmp_path / name, **({} if wrapped else {"wrapped": False}))
    content = read_checkpoint(tmp_path / name)
    assert_same(content["model"] if name == "a.pth" and wrapped else content)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_follows_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        for name in ("a.safetensors", "a.pth"):
            save_weights(STATE, tmp_path / name)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_tied_transposed_and_trained_weights_become_plain_ones(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save_weights({"a": weight, "b": weight, "t": weight.t()}, tmp_path / "a.safetensors")
    content = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert torch.equal(content["a"], weight) and torch.equal(content["b"], weight)
    assert torch.equal(content["t"], weight.t()) and not content["t"].requires_grad


@pytest.mark.parametrize(("name", "shown"), [("a.bin", "'.bin'"), ("weights", "'no suffix'")])
def test_other_suffixes_are_refused_before_anything_is_written(tmp_path, name, shown):
    for refuse in (require_known_suffix, lambda path: save_weights(STATE, path)):
        with pytest.raises(ValueError, match=rf"{name}: weights are written as .safetensors or .pth, not as {shown}"):
            refuse(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (np.float64(0.5), "checkpoint is a numpy.float64"),
        ([1, {"a": (None, np.zeros(2))}], "checkpoint[1]['a'][1] is a numpy.ndarray"),
        ({"a": {np.int64(1): 2}}, "checkpoint['a'] key np.int64(1) is a numpy.int64"),
        ({"module": torch.nn.ReLU()}, "checkpoint['module'] is a torch.nn.modules.activation.ReLU"),
    ],
)
def test_what_the_safe_loader_would_refuse_is_named_with_its_place(value, place):
    with pytest.raises(TypeError) as error:
        require_plain(value)
    assert str(error.value).startswith(place)


def test_a_refused_value_leaves_the_old_file(tmp_path):
    save_plain({"a": 1}, tmp_path / "a.pth")
    with pytest.raises(TypeError, match="could not be loaded again"):
        save_plain({"a": {1, np.float32(2)}}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True) == {"a": 1}


@contextlib.contextmanager
def small_disk():
    """No file may have more than 4096 bytes; not for a whole test, whose output may go to a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name):
    with pytest.raises(OSError, match=name), small_disk():
        save_weights({"weight": torch.zeros(5000)}, tmp_path / name)
    assert not list(tmp_path.iterdir())
