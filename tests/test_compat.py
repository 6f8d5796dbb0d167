import importlib.util
import sys
from importlib.machinery import PathFinder

import numpy as np
import pytest
from PIL import Image

from mta_clip import compat
from mta_clip.compat import patch_detectron2


@pytest.fixture
def compiled_part(monkeypatch):
    """Makes detectron2 look as if it were not imported yet, and its compiled part as if it were (not) there."""

    def look(present: bool) -> None:
        monkeypatch.delitem(sys.modules, "detectron2._C", raising=False)
        spec = importlib.util.spec_from_loader("detectron2._C", loader=None) if present else None
        monkeypatch.setattr(PathFinder, "find_spec", lambda *_: spec)

    return look


def test_without_detectron2_both_ways_to_get_it_are_named(monkeypatch):
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
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


def test_a_stub_stands_in_for_the_compiled_part(compiled_part):
    compiled_part(False)
    patch_detectron2()
    from detectron2 import _C as stub

    assert stub is sys.modules["detectron2._C"]
    assert stub.get_compiler_version() == stub.get_cuda_version() == "not compiled"
    assert not stub.has_cuda()


def test_a_compiled_part_is_left_alone(compiled_part):
    compiled_part(True)
    patch_detectron2()
    assert "detectron2._C" not in sys.modules


def test_a_compiled_part_that_is_imported_already_is_left_alone(compiled_part, monkeypatch):
    compiled_part(False)
    monkeypatch.setitem(sys.modules, "detectron2._C", "compiled")
    patch_detectron2()
    assert sys.modules["detectron2._C"] == "compiled"
