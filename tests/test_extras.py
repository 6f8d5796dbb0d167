"""Optional dependencies that are not installed."""

import sys

import pytest

from mta_clip.extras import import_transformers
from mta_clip.modeling.clip import CLIPTextEncoder


def test_the_error_names_what_needs_it_and_the_extra(monkeypatch):
    assert import_transformers("this").AutoModel
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("hf:some/model", "roberta-ViT-B-32", "ViT-B-16-SigLIP"):
        with pytest.raises(ImportError, match=rf"{name} needs transformers.*pip install 'mta-clip\[hf\]'"):
            CLIPTextEncoder(name=name)
