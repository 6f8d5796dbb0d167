"""The frozen text encoder: tokens, modes, gradients, refusals."""

from pathlib import Path

import open_clip
import pytest
import torch

from mta_clip.config import get_cfg
from mta_clip.modeling.clip import CLIPTextEncoder, knows_language, text_encoder

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


@pytest.mark.parametrize("num_vectors", [0, 3])
def test_texts_fill_the_positions_of_a_tower_that_sees_padding(num_vectors):
    encoder = CLIPTextEncoder(name="test-not-causal")
    tokens = encoder.tokenize(["sky", "red car"], reserved=num_vectors)
    assert tokens.shape == (2, 16 - num_vectors)
    assert encoder(tokens, torch.zeros(2, num_vectors, encoder.width)).shape == (2, 2, 32)


def test_equals_open_clip_with_its_own_tokens():
    model, encoder = open_clip.create_model("test-not-causal").eval(), CLIPTextEncoder(name="test-not-causal")
    encoder.tower.load_state_dict(model.text.state_dict())
    texts = ["sky", "a photo of a red car"]
    expected = model.encode_text(open_clip.get_tokenizer("test-not-causal")(texts))
    torch.testing.assert_close(encoder(encoder.tokenize(texts))[0], expected, rtol=1e-4, atol=1e-5)


def test_the_text_tower_of_a_config(caplog):
    cfg = get_cfg()
    clip = cfg.MODEL.CLIP
    clip.NAME, clip.PRETRAINED, clip.QUICK_GELU = "mta-tiny", "weights.pt", True
    same = {"name": "mta-tiny", "pretrained": "weights.pt", "quick_gelu": True, "pooling": "", "checkpointing": False}
    assert CLIPTextEncoder.from_config(cfg) == same
    clip.TEXT_NAME = "mta-tiny"
    assert CLIPTextEncoder.from_config(cfg) == same
    clip.TEXT_PRETRAINED = "text.pt"
    assert CLIPTextEncoder.from_config(cfg) == {**same, "pretrained": "text.pt"}
    clip.TEXT_NAME = "test-not-causal"
    other = {**same, "name": "test-not-causal", "pretrained": "text.pt", "quick_gelu": False}
    assert CLIPTextEncoder.from_config(cfg) == other
    assert not caplog.records
    clip.TEXT_PRETRAINED = ""
    assert CLIPTextEncoder.from_config(cfg)["pretrained"] == ""
    assert "text tower test-not-causal has random weights" in caplog.text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"PRETRAINED": "openai"}, True),
        ({"PRETRAINED": ""}, False),
        ({"PRETRAINED": "", "TEXT_PRETRAINED": "text.pt"}, True),
        ({"PRETRAINED": "", "TEXT_NAME": "ViT-B-16", "TEXT_PRETRAINED": "openai"}, True),
        ({"PRETRAINED": "openai", "TEXT_NAME": "ViT-B-16"}, False),
        ({"PRETRAINED": "", "TEXT_NAME": "hf:sentence-transformers/all-MiniLM-L6-v2"}, True),
        ({"PRETRAINED": "openai", "TEXT_NAME": "hf:some/model", "TEXT_PRETRAINED": "random"}, False),
        ({"NAME": "mta-tiny", "PRETRAINED": "shapes.pth"}, False),
        ({"PRETRAINED": "openai", "TEXT_NAME": "mta-tiny", "TEXT_PRETRAINED": "shapes.pth"}, False),
    ],
)
def test_which_towers_know_language(keys, expected):
    cfg = get_cfg()
    for key, value in keys.items():
        cfg.MODEL.CLIP[key] = value
    assert knows_language(cfg) is expected


def test_errors_name_the_keys_of_the_text_tower():
    with pytest.raises(
        FileNotFoundError, match=r"MODEL\.CLIP\.PRETRAINED or TEXT_PRETRAINED: no such file: absent\.pt"
    ):
        CLIPTextEncoder(name="mta-tiny", pretrained="absent.pt")
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.NAME or TEXT_NAME: open_clip has no architecture 'vit-b16'"):
        CLIPTextEncoder(name="vit-b16")
