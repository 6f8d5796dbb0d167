"""Optional dependencies that are not installed."""

import sys

import pytest

from mta_clip.extras import import_extra
from mta_clip.modeling.clip import CLIPTextEncoder


def test_it_is_the_module():
    assert import_extra("xml.dom", "none", "this") is sys.modules["xml.dom"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes a module of a source importable."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, source: (tmp_path / f"{name}.py").write_text(source)


def test_a_part_that_is_missing_is_named(installed):
    installed("half_a_library", "import gone_with_the_wind")
    with pytest.raises(ModuleNotFoundError, match="this needs gone_with_the_wind, ") as error:
        import_extra("half_a_library", "half", "this")
    assert error.value.name == "gone_with_the_wind"


def test_a_broken_library_is_not_called_missing(installed):
    installed("broken_library", "raise ImportError('wants another version')")
    with pytest.raises(ImportError, match=r"^wants another version$"):
        import_extra("broken_library", "broken", "this")


def test_the_error_names_what_needs_it_and_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("hf:some/model", "roberta-ViT-B-32", "ViT-B-16-SigLIP"):
        with pytest.raises(ModuleNotFoundError, match=rf"{name} needs transformers.*pip install 'mta-clip\[hf\]'"):
            CLIPTextEncoder(name=name)
