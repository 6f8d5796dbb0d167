import pytest
import torch

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


def test_contexts_start_from_templates(text_encoder):
    learner = ContextPromptLearner(
        text_encoder=text_encoder,
        class_names=NAMES,
        num_contexts=2,
        context_length=4,
        init_templates=["a photo of a", "one"],
    )
    photo, one = learner.contexts.detach()
    words = text_encoder.tower.token_embedding(text_encoder.tokenize(["a photo of a"])[0])
    assert torch.equal(photo, words[1:-1]) and torch.equal(photo[0], photo[3])
    assert torch.equal(one[3], text_encoder.embed_words("one")[0]) and one[:3].abs().max() <= 0.04
    assert learner.contexts.requires_grad
    # the vectors say what the words would
    said = text_encoder(text_encoder.tokenize([f"a photo of a {name}" for name in NAMES]))
    torch.testing.assert_close(learner.encode(NAMES)[:1, :3], said, atol=1e-4, rtol=1e-4)


def test_templates_come_from_the_config(cfg):
    cfg.MODEL.PROMPT.NUM_CONTEXTS, cfg.MODEL.PROMPT.INIT_TEMPLATES = 2, ["a photo of a", "this is a"]
    vectors = build_prompt_learner(cfg).contexts[:, -1]
    assert torch.equal(vectors[0], vectors[1])  # of "a"


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["a"], r"INIT_TEMPLATES has 1 templates, but MODEL.PROMPT.NUM_CONTEXTS is 2"),
        (["a", "one two three four"], "'one two three four' has 4 tokens, expected 1 to 3"),
        (["a", ""], "'' has 0 tokens"),
    ],
)
def test_templates_that_do_not_fit_are_refused(text_encoder, templates, message):
    with pytest.raises(ValueError, match=message):
        ContextPromptLearner(
            text_encoder=text_encoder,
            class_names=NAMES,
            num_contexts=2,
            context_length=3,
            init_templates=templates,
        )


def test_bad_contexts_are_refused_when_built(text_encoder):
    with pytest.raises(ValueError, match=r"'wall wall .* is too long: 28 tokens .* 8 context vectors"):
        ContextPromptLearner(text_encoder=text_encoder, class_names=["sky", "wall " * 26], context_length=8)
    with pytest.raises(ValueError, match="NUM_CONTEXTS 0"):
        ContextPromptLearner(text_encoder=text_encoder, class_names=NAMES, num_contexts=0)
