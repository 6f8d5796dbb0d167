import pytest
import torch
from tiny_models import NAMES, batch, tiny_config, tiny_model
from torch.nn import functional as F

from mta_clip.modeling.clip import build_clip
from mta_clip.modeling.frozen_clip import FrozenCLIP, join_opinions
from mta_clip.modeling.text import TemplatePrompt

ON = ("MODEL.MTA.FROZEN_CLIP.ENABLED", True)


def test_the_opinions_are_joined_as_in_fc_clip():
    probs, logits = torch.rand(1, 2, 3).softmax(-1) * 0.8, torch.randn(1, 2, 3)
    joined = join_opinions(probs, logits, torch.tensor([0.4, 0.4, 0.8]))
    own, clip = probs / 0.8, logits.softmax(-1)
    expected = torch.cat(
        [own[..., :2] ** 0.6 * clip[..., :2] ** 0.4, own[..., 2:] ** 0.2 * clip[..., 2:] ** 0.8], dim=-1
    )
    torch.testing.assert_close(joined, 0.8 * expected / expected.sum(-1, keepdim=True))


def test_exponents_of_zero_and_one_are_either_opinion():
    probs, logits = torch.tensor([[[0.5, 0.0, 0.2]]]), torch.randn(1, 1, 3)
    torch.testing.assert_close(join_opinions(probs, logits, torch.zeros(3)), probs)
    torch.testing.assert_close(join_opinions(probs, logits, torch.ones(3)), 0.7 * logits.softmax(-1))
    assert join_opinions(probs, logits, torch.full((3,), 0.5)).isfinite().all()


def test_a_mask_that_is_no_object_for_certain_stays_so():
    assert torch.equal(
        join_opinions(torch.zeros(1, 2, 3), torch.randn(1, 2, 3), torch.full((3,), 0.4)), torch.zeros(1, 2, 3)
    )


def test_off_changes_nothing_and_on_adds_a_frozen_copy():
    sample = batch(1)
    off, on = tiny_model().eval(), tiny_model(*ON).eval()
    on.load_state_dict(off.state_dict(), strict=False)
    assert off.frozen_clip is None
    extra = on.state_dict().keys() - off.state_dict().keys()
    assert extra and all(name.startswith("frozen_clip.") for name in extra)
    expected, joined = off(sample)[0]["sem_seg"], on(sample)[0]["sem_seg"]
    assert joined.shape == expected.shape and not torch.allclose(joined, expected, rtol=0.01)
    on.frozen_clip.seen_exponent = 0.0
    torch.testing.assert_close(on(sample)[0]["sem_seg"], expected, atol=1e-5, rtol=1e-4)


def test_it_is_never_trained():
    model = tiny_model(*ON).train()
    before = {name: value.clone() for name, value in model.frozen_clip.state_dict().items()}
    sum(model(batch()).values()).backward()
    assert not model.frozen_clip.pooler.visual.bn1.training
    assert not any(p.requires_grad or p.grad is not None for p in model.frozen_clip.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.frozen_clip.state_dict().items())


def frozen(**options):
    clip = build_clip(name="mta-tiny").eval()
    common = {"logit_scale": 20.0, "pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 50.0, 40.0]}
    return FrozenCLIP(visual=clip.visual, **common, **options)


@torch.no_grad()
def test_a_mask_over_the_image_is_clips_zero_shot_classification():
    model = tiny_model().eval()
    frozen_clip = frozen(seen_exponent=1.0, unseen_exponent=1.0, clip_mean=[0.4, 0.5, 0.6], clip_std=[0.2, 0.3, 0.4])
    image = torch.rand(1, 3, 96, 96)
    normalised = (255 * image - torch.tensor([120.0, 110, 100]).view(3, 1, 1)) / torch.tensor([60.0, 50, 40]).view(
        3, 1, 1
    )
    text = TemplatePrompt(text_encoder=model.prompt_learner.text_encoder, class_names=["a"], templates=["vild"])
    for names in (None, ["cat", "red car", "moon"]):
        model.set_vocabulary(names)
        count = len(names or NAMES)
        probs = torch.full((1, 1, count), 1 / (count + 1))
        joined = frozen_clip(normalised, torch.ones(1, 1, 24, 24), probs, model.prompt_learner)
        own = (image - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
        embedding = F.normalize(frozen_clip.pooler.visual(own), dim=-1)
        expected = (20 * embedding @ text.ensemble(names or NAMES).t()).softmax(-1) * count / (count + 1)
        torch.testing.assert_close(joined[0], expected, atol=1e-5, rtol=1e-3)


def test_each_name_has_the_exponent_of_what_training_saw_of_it():
    model = tiny_model()
    frozen_clip = frozen(held_out=["tree"])
    exponents = frozen_clip._exponents(["moon", "Sky;heaven", "tree", "red car"], model.prompt_learner)
    torch.testing.assert_close(exponents, torch.tensor([0.8, 0.4, 0.8, 0.4]))


def test_text_is_encoded_once(monkeypatch):
    model, calls = tiny_model(*ON).eval(), []
    encode = model.prompt_learner.text_encoder.tower.forward
    monkeypatch.setattr(model.prompt_learner.text_encoder.tower, "forward", lambda *a: calls.append(1) or encode(*a))
    model(batch(1))
    first = len(calls)
    assert first >= 14
    model(batch(1))
    assert len(calls) == first


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"FROZEN_CLIP\.UNSEEN_EXPONENT is 1\.5, expected a number in 0\.\.1"):
        FrozenCLIP(tiny_config("MODEL.MTA.FROZEN_CLIP.UNSEEN_EXPONENT", 1.5))
    with pytest.raises(ValueError, match=r"MODEL\.PROMPT\.NAME, which is empty"):
        tiny_model(*ON, text=False)
