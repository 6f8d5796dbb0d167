import pytest

from mta_clip.modeling.text import ContextPromptLearner, build_prompt_learner

NAMES = ["red disc", "blue ring", "striped green square"]


def test_context_prompts(cfg):
    cfg.MODEL.PROMPT.NUM_CONTEXTS = 5
    cfg.MODEL.PROMPT.CONTEXT_LENGTH = 4
    cfg.MODEL.PROMPT.NO_OBJECT_NAME = "nothing"
    learner = build_prompt_learner(cfg)
    assert type(learner) is ContextPromptLearner
    assert learner.contexts.shape == (5, 4, 128)
    assert learner.no_object_name == "nothing"
    assert learner().shape == (5, 3, 128)


def test_contexts_are_the_only_trained_parameters(contexts):
    contexts.train()
    contexts()[:, :, 0].sum().backward()
    assert [name for name, p in contexts.named_parameters() if p.requires_grad] == ["contexts"]
    assert contexts.contexts.grad.abs().amax(dim=-1).min() > 0
    assert all(p.grad is None for p in contexts.text_encoder.parameters())
    assert not contexts.text_encoder.training


def test_contexts_start_as_truncated_normal(text_encoder):
    learner = ContextPromptLearner(
        text_encoder=text_encoder, class_names=NAMES, num_contexts=16, context_length=16, init_std=0.5
    )
    assert learner.contexts.shape == (16, 16, 128)
    assert 0.9 < learner.contexts.abs().max() <= 1.0  # cut off at two standard deviations
    assert learner.contexts.std().item() == pytest.approx(0.44, abs=0.01)  # 0.88 of the uncut deviation


def test_bad_contexts_are_refused_when_built(text_encoder):
    with pytest.raises(ValueError, match=r"'wall wall .* is too long: 28 tokens .* 8 context vectors"):
        ContextPromptLearner(text_encoder=text_encoder, class_names=["sky", "wall " * 26], context_length=8)
    with pytest.raises(ValueError, match="NUM_CONTEXTS 0"):
        ContextPromptLearner(text_encoder=text_encoder, class_names=NAMES, num_contexts=0)
