"""The frozen text encoder: tokens, modes, gradients, refusals."""

from pathlib import Path

import open_clip
import pytest
import torch

from mta_clip.modeling.clip import CLIPTextEncoder, text_encoder

open_clip.add_model_config(Path(__file__).parent / "model_configs")


@pytest.fixture(scope="module")
def encoder() -> CLIPTextEncoder:
    return CLIPTextEncoder(name="mta-tiny", quick_gelu=True)


def test_tokens_are_open_clips_cut_to_the_longest(encoder):
    names = ["Wall", "chest of drawers", "sky "]
    tokens = encoder.tokenize(names)
    assert tokens.shape == (3, 5)  # start, three tokens, end
    assert torch.equal(tokens, open_clip.get_tokenizer("RN50")(names)[:, :5])
    assert encoder.tokenize(["wall"]).tolist() == [[49406, 2569, 49407]]


def test_sizes(encoder):
    assert (encoder.width, encoder.text_dim, encoder.context_length) == (128, 128, 32)
    assert encoder(encoder.tokenize(["a", "b"]), torch.zeros(3, 8, 128)).shape == (3, 2, 128)


def test_too_long_a_name_is_refused(encoder):
    fits = "wall " * 22  # 22 + start + end + 8 contexts = 32
    assert encoder.tokenize(["a", fits], reserved=8).shape == (2, 24)
    with pytest.raises(ValueError, match=r"'wall wall.* is too long: 25 tokens .* 8 context vectors, .* 32 positions"):
        encoder.tokenize(["a", fits + "wall"], reserved=8)
    with pytest.raises(ValueError, match="no texts"):
        encoder.tokenize([])


def test_frozen_but_gradients_pass_through(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    contexts = torch.randn(2, 4, 128, requires_grad=True)
    encoder(encoder.tokenize(["sky", "red car"]), contexts)[..., 0].sum().backward()
    assert contexts.grad.abs().amax(dim=-1).min() > 0
    assert all(not p.requires_grad and p.grad is None for p in encoder.parameters())


def test_many_texts_are_encoded_in_blocks(encoder, monkeypatch):
    monkeypatch.setattr(text_encoder, "TEXTS_PER_BLOCK", 3)
    names = ["sky", "red car", "a", "chest of drawers", "wall", "tree", "one"]
    tokens, contexts = encoder.tokenize(names), torch.randn(2, 4, 128)
    expected, sizes = encoder(tokens, contexts).detach(), []
    hook = encoder.tower.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        features = encoder(tokens, contexts)
    hook.remove()
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_autocast(encoder):
    tokens, contexts = encoder.tokenize(["sky", "red car"]), torch.randn(2, 4, 128)
    with torch.no_grad():
        expected = encoder(tokens, contexts)
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(tokens, contexts)
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_hugging_face_texts_are_refused_before_any_download(name):
    with pytest.raises(ValueError, match=f"{name}: its text tower needs .*; only CLIP's own"):
        CLIPTextEncoder(name=name)


def test_other_text_towers_are_refused():
    with pytest.raises(ValueError, match="no causal mask, it reads out by 'last'"):
        CLIPTextEncoder(name="test-not-causal")
