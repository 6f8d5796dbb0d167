import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from mta_clip import compat
from mta_clip.compat import patch_detectron2


@pytest.fixture
def missing(monkeypatch):
    """Makes a module look as if it were not installed."""
    find_spec = importlib.util.find_spec

    def hide(hidden: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == hidden else find_spec(name))

    return hide


def test_without_detectron2_both_ways_to_get_it_are_named(missing):
    missing("detectron2")
    with pytest.raises(ModuleNotFoundError, match=r"(?s)detectron2-cdo==0\.5.*facebookresearch/detectron2") as error:
        patch_detectron2()
    assert error.value.name == "detectron2"


def test_names_that_libraries_removed_come_back(monkeypatch):
    monkeypatch.delattr(Image, "LINEAR")
    for name in ("int", "object"):
        monkeypatch.delattr(np, name)
    patch_detectron2()
    assert Image.LINEAR == Image.BILINEAR and np.int is int and np.object is object


def test_names_that_are_there_stay(monkeypatch):
    monkeypatch.setattr(Image, "LINEAR", "kept")
    monkeypatch.setattr(np, "float", "kept")
    patch_detectron2()
    assert Image.LINEAR == np.float == "kept"


def test_a_stub_stands_in_for_the_compiled_part(missing, monkeypatch):
    import detectron2

    monkeypatch.setitem(sys.modules, "detectron2._C", None)
    monkeypatch.setattr(detectron2, "_C", None, raising=False)
    missing("detectron2._C")
    patch_detectron2()
    stub = sys.modules["detectron2._C"]
    assert stub is detectron2._C and stub.get_compiler_version() == stub.get_cuda_version() == "not compiled"
    assert not stub.has_cuda()


def test_a_compiled_part_is_left_alone(monkeypatch):
    compiled = type(sys)("detectron2._C")
    compiled.__spec__ = importlib.util.spec_from_loader("detectron2._C", loader=None)
    monkeypatch.setitem(sys.modules, "detectron2._C", compiled)
    monkeypatch.setattr(compat, "_compiled_part_stub", lambda: pytest.fail("replaced the compiled part"))
    patch_detectron2()
    assert sys.modules["detectron2._C"] is compiled
