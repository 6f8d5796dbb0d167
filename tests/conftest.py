"""Shared fixtures: seeds, and a datasets folder of the tests' own."""

import contextlib
import importlib.util
import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; no test reaches for the network by accident

import numpy as np
import pytest
import torch

if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"  # read where Triton is imported, which happens with mta_clip

import mta_clip  # noqa: F401  first, as it makes detectron2 importable

from golden_files import GOLDEN_DEVICE  # isort: skip

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of processes that tests start: tiny models gain nothing by threads
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def full_float32(request):
    """No TensorFloat-32 where numbers of a GPU are compared: its ten bits of mantissa would hide the difference."""
    if not any(map(request.node.get_closest_marker, ("golden", "gpu"))):
        yield
        return
    modules = torch.backends.cudnn, torch.backends.cuda.matmul  # monkeypatch cannot undo what they are told
    before = [module.allow_tf32 for module in modules]
    for module in modules:
        module.allow_tf32 = False
    yield
    for module, allowed in zip(modules, before, strict=True):
        module.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def golden_device(request):
    """Golden tests build and run everything on the GPU if there is one; see golden_files.py."""
    device = GOLDEN_DEVICE if request.node.get_closest_marker("golden") else "cpu"
    with torch.device(device) if device != "cpu" else contextlib.nullcontext():
        yield


@pytest.fixture
def datasets_root(tmp_path, monkeypatch):
    """An empty folder that DETECTRON2_DATASETS points to."""
    root = tmp_path / "datasets"
    root.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root
