import pytest
import torch

from mta_clip.modeling.clip import CLIPTextEncoder
from mta_clip.modeling.tagclip.class_text import ClassText

NAMES = ["red disc", "blue ring", "wall-concrete"]


@pytest.fixture(scope="module")
def text_encoder():
    torch.manual_seed(0)
    return CLIPTextEncoder(name="mta-tiny-vit", quick_gelu=True)


def count_passes(text_encoder, monkeypatch) -> list:
    passes, forward = [], text_encoder.tower.forward
    monkeypatch.setattr(text_encoder.tower, "forward", lambda *args: (passes.append(1), forward(*args))[1])
    return passes


def test_average_of_normed_templates(text_encoder):
    templates = ["a photo of a {}.", "There is the {} in the scene."]
    text = ClassText(text_encoder=text_encoder, templates=templates)(NAMES)
    single = [ClassText(text_encoder=text_encoder, templates=[template])(NAMES) for template in templates]
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(text, torch.nn.functional.normalize(single[0] + single[1], dim=1), atol=1e-6, rtol=0)
    assert not text.requires_grad


def test_names_are_encoded_once_and_in_any_order(text_encoder, monkeypatch):
    passes = count_passes(text_encoder, monkeypatch)
    class_text = ClassText(text_encoder=text_encoder, templates=["a photo of a {}"])
    first = class_text(NAMES)
    assert len(passes) == 1
    assert torch.equal(class_text(NAMES[::-1]), first.flip(0)) and len(passes) == 1
    more = class_text([*NAMES, "yellow square"])
    assert len(passes) == 2 and torch.equal(more[:3], first)


def test_moves_and_loads_forget_the_features(text_encoder, monkeypatch):
    class_text = ClassText(text_encoder=text_encoder, templates=["a photo of a {}"])
    class_text(NAMES)
    passes = count_passes(text_encoder, monkeypatch)
    class_text.to(torch.float64).to(torch.float32)
    class_text(NAMES)
    assert len(passes) == 1
    torch.nn.Sequential(class_text).load_state_dict(torch.nn.Sequential(class_text).state_dict())
    class_text(NAMES)
    assert len(passes) == 2
    assert not [name for name in class_text.state_dict() if "features" in name]


def test_features_are_full_precision_and_usable_in_training(text_encoder):
    class_text = ClassText(text_encoder=text_encoder, templates=["a photo of a {}"])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = class_text(NAMES)
    assert features.dtype == torch.float32 and not class_text(NAMES).is_inference()
    (class_text(NAMES) * torch.ones(128, requires_grad=True)).sum().backward()


def test_bad_names_and_templates(text_encoder):
    with pytest.raises(ValueError, match="empty"):
        ClassText(text_encoder=text_encoder, templates=["a {}"])(["red disc", " "])
    with pytest.raises(ValueError, match="too long"):
        ClassText(text_encoder=text_encoder, templates=["a {}"])(["very " * 40 + "long"])
    with pytest.raises(ValueError, match=r"must contain \{\} once"):
        ClassText(text_encoder=text_encoder, templates=["a photo"])(["red disc"])
