"""What context and template prompts share: rows, caching, open vocabulary, temperature."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mta_clip.modeling.text import PROMPT_LEARNERS, PromptLearner, TemplatePrompt, build_prompt_learner

NAMES = ["red disc", "blue ring", "striped green square"]


def count_calls(learner: PromptLearner, monkeypatch) -> list[Tensor]:
    """The list grows by one for each pass of the text encoder."""
    calls, run = [], learner.text_encoder.tower.forward

    def counting(*args, **kwargs):
        calls.append(run(*args, **kwargs))
        return calls[-1]

    monkeypatch.setattr(learner.text_encoder.tower, "forward", counting)
    return calls


def test_shapes(contexts, templates):
    assert contexts.num_contexts == 3 and templates.num_contexts == 2
    assert contexts.text_dim == templates.text_dim == 128
    assert contexts().shape == (3, 4, 128)
    assert templates().shape == (2, 4, 128)
    assert contexts.class_names == NAMES


def test_rows_follow_the_names(learner, text_encoder):
    """Permuting class names permutes rows; the no-object row is last; the prompt is what the encoder gets."""
    learner.eval()
    order = [2, 0, 1]
    permuted = learner.encode([NAMES[i] for i in order])
    torch.testing.assert_close(permuted, learner()[:, [*order, 3]], rtol=1e-4, atol=1e-5)
    other = learner.encode(["my cat", "none"])
    assert other.shape == (learner.num_contexts, 3, 128)
    torch.testing.assert_close(other[:, 1], learner()[:, 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other[:, 2], other[:, 1], rtol=1e-4, atol=1e-5)


def test_cached_at_inference(learner, monkeypatch):
    learner.eval()
    calls = count_calls(learner, monkeypatch)
    with torch.no_grad():
        fresh = learner.encode_classes()
    passes = len(calls)
    features = learner()
    assert torch.equal(features, fresh) and not features.requires_grad
    assert learner() is features
    assert len(calls) == 2 * passes


def test_training_recomputes_contexts_but_not_templates(contexts, templates, monkeypatch):
    calls = count_calls(contexts, monkeypatch)
    contexts.train()
    contexts(), contexts()
    assert len(calls) == 2
    templates.train()
    assert templates() is templates()


def test_follows_every_change(learner):
    learner = copy.deepcopy(learner).eval()  # the text encoder is shared by all tests
    before = learner()
    other = copy.deepcopy(learner)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    other.train().eval()
    parent = nn.ModuleDict({"prompt": learner})
    parent.load_state_dict({f"prompt.{k}": v for k, v in other.state_dict().items()})
    after = learner()
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, other())

    assert learner.double()().dtype == torch.float64
    parent.float()
    assert learner().dtype == torch.float32
    assert not parent.to("meta")["prompt"]._cache


def test_a_vocabulary_set_before_weights_are_loaded_follows_them(learner):
    """Its features were once those of the weights at the time it was set."""
    learner = copy.deepcopy(learner).eval()
    learner.set_vocabulary(["sea", "boat"])
    before = learner.encode(learner.vocabulary)
    other = copy.deepcopy(learner)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    other.train().eval()
    learner.load_state_dict(other.state_dict())
    after = learner.encode(learner.vocabulary)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, other.encode(["sea", "boat"]))


def test_a_vocabulary_is_checked_when_set(learner):
    learner = copy.deepcopy(learner).eval()
    with pytest.raises(ValueError, match="too long"):
        learner.set_vocabulary(["very " * 80])
    with pytest.raises(ValueError, match="empty"):
        learner.set_vocabulary(["sea", " "])
    assert learner.vocabulary is None
    learner.set_vocabulary(["sea"])
    learner.set_vocabulary(None)
    assert learner.vocabulary is None


def test_each_list_of_names_is_encoded_once(learner, monkeypatch):
    learner.eval()
    calls = count_calls(learner, monkeypatch)
    learner(), learner.encode(["sea"])
    passes = len(calls)
    learner(), learner.encode(["sea"]), learner.ensemble(["sea"])
    assert len(calls) == passes
    for number in range(10):
        learner.encode([f"name {number}"])
    assert len(learner._cache) <= 4


def test_a_fixed_temperature_is_not_saved_and_a_learned_one_is_bounded(text_encoder):
    fixed = TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, temperature=0.07)
    assert fixed.temperature == 0.07 and "logit_scale" not in fixed.state_dict()
    learned = TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, temperature=0.07, learn_temperature=True)
    assert learned.temperature.item() == pytest.approx(0.07)
    learned.temperature.backward()
    assert learned.logit_scale.grad.abs() > 0
    with torch.no_grad():
        learned.logit_scale.fill_(50.0)
    assert learned.temperature.item() == pytest.approx(0.01)
    with pytest.raises(ValueError, match="TEMPERATURE must be above 0, got 0"):
        TemplatePrompt(text_encoder=text_encoder, class_names=NAMES, temperature=0)


def test_training_mode_discards_what_was_cached(contexts):
    contexts.eval()
    before = contexts()
    contexts.train()
    with torch.no_grad():
        contexts.contexts.add_(1.0)
    assert not torch.allclose(contexts.eval()(), before)


def test_cache_made_in_inference_mode_or_autocast_serves_training(templates):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = templates.train()()
    assert features.dtype == torch.float32
    weight = torch.ones(128, requires_grad=True)
    (templates() * weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=(0, 1)))


def test_no_text(cfg):
    cfg.MODEL.PROMPT.NAME = ""
    assert build_prompt_learner(cfg) is None


def test_unknown_learner_lists_the_known(cfg):
    cfg.MODEL.PROMPT.NAME = "Contexts"
    with pytest.raises(
        ValueError, match="no prompt learner 'Contexts'; there are ContextPromptLearner, TemplatePrompt"
    ):
        build_prompt_learner(cfg)
    assert "ContextPromptLearner" in PROMPT_LEARNERS
