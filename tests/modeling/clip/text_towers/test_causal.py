"""The prefix-shared text tower against stored reference numbers, open_clip, and the plain full sequence."""

from pathlib import Path

import open_clip
import pytest
import torch
from golden_files import compare, golden_params, load, weights
from open_clip.transformer import QuickGELU, TextTransformer
from text_oracle import assert_equal, randomise
from torch import Tensor

from mta_clip.modeling.clip.text_towers import CausalTextTower
from mta_clip.modeling.clip.towers import build_clip

open_clip.add_model_config(Path(__file__).parents[1] / "model_configs")


def small_transformer(**options) -> TextTransformer:
    sizes = {"context_length": 13, "vocab_size": 50, "width": 32, "heads": 4, "layers": 3, "output_dim": 24}
    return TextTransformer(**{**sizes, **options})


def plain_forward(source: TextTransformer, tokens: Tensor, contexts: Tensor) -> Tensor:
    """Every sequence in full: [start, context, rest of the tokens], read out at the end token."""
    features = []
    for context in contexts:
        embedded = source.token_embedding(tokens)
        context = context.expand(len(tokens), -1, -1)
        sequence = torch.cat([embedded[:, :1], context, embedded[:, 1:]], dim=1)
        length = sequence.shape[1]
        hidden = sequence + source.positional_embedding[:length]
        hidden = source.ln_final(source.transformer(hidden, attn_mask=source.attn_mask[:length, :length]))
        end = tokens.argmax(dim=1) + context.shape[1]
        features.append(hidden[torch.arange(len(tokens)), end] @ source.text_projection)
    return torch.stack(features)


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_params("mta_text"))
def test_reproduces_the_reference(path):
    config, arrays = load(path)
    state = weights(arrays)
    positions, width = state["positional_embedding"].shape
    source = TextTransformer(
        context_length=positions,
        vocab_size=len(state["token_embedding.weight"]),
        width=width,
        heads=config["heads"],
        layers=config["layers"],
        mlp_ratio=config["mlp_ratio"],
        output_dim=state["text_projection"].shape[1],
        act_layer=QuickGELU,
    )
    tower = CausalTextTower(source)
    tower.load_state_dict(state)
    with torch.no_grad():
        features = tower(arrays["tokens"], arrays["contexts"])
    compare("context text encoder, text features", features, arrays["text_embeddings"])


@pytest.mark.parametrize("num_contexts, context_length", [(1, 1), (3, 6)])
def test_sharing_the_prefix_changes_nothing(num_contexts, context_length):
    source = small_transformer()
    for parameter in source.parameters():  # biases, which start at zero, take part too
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.tensor([[48, 3, 49, 0, 0], [48, 7, 8, 9, 49], [48, 5, 5, 49, 0], [48, 49, 0, 0, 0]])
    contexts = torch.randn(num_contexts, context_length, 32, requires_grad=True)
    upstream = torch.randn(num_contexts, len(tokens), 24)

    expected = plain_forward(source, tokens, contexts)
    (expected_gradient,) = torch.autograd.grad(expected, contexts, upstream)
    features = CausalTextTower(source)(tokens, contexts)
    (gradient,) = torch.autograd.grad(features, contexts, upstream)

    assert features.shape == (num_contexts, len(tokens), 24)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_only_what_is_kept_for_the_backward_pass():
    source = small_transformer()
    source.requires_grad_(False)
    tokens = torch.tensor([[48, 3, 49, 0, 0], [48, 7, 8, 9, 49], [48, 5, 5, 49, 0], [48, 49, 0, 0, 0]])
    contexts, upstream = torch.randn(2, 6, 32, requires_grad=True), torch.randn(2, len(tokens), 24)
    results = []
    for checkpointing in (False, True):
        kept: list[int] = []

        def note(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        tower = CausalTextTower(source, checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = tower(tokens, contexts)
        results.append((features, *torch.autograd.grad(features, contexts, upstream), sum(kept)))
        with torch.no_grad():
            assert torch.equal(tower(tokens, contexts), features)
    (features, gradient, stored), (same_features, same_gradient, stored_less) = results
    assert torch.equal(features, same_features) and torch.equal(gradient, same_gradient)
    assert stored_less < stored / 3


@pytest.mark.parametrize("name", ["mta-tiny", "test-timm-vit", "RN50"])
def test_equals_open_clip_without_contexts(name):
    """CLIP and CustomTextCLIP, at full context length and cut to the longest text."""
    model = build_clip(name=name, quick_gelu=True).eval()
    tower = CausalTextTower(getattr(model, "text", model))
    tokens = open_clip.get_tokenizer(name)(["a photo of a cat.", "the photo of a big chest of drawers.", "sky"])
    longest = int(tokens.argmax(dim=1).max()) + 1
    with torch.no_grad():
        expected = model.encode_text(tokens)
        for cut in (tokens, tokens[:, :longest]):
            torch.testing.assert_close(tower(cut)[0], expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (3, tower.text_dim)


def test_a_linear_projection_or_none():
    tokens = torch.tensor([[48, 3, 49], [48, 49, 0]])
    biased, unprojected = small_transformer(proj_bias=True).eval(), small_transformer(proj_type="none").eval()
    for source, width in ((biased, 24), (unprojected, 32)):
        source.attn_mask = source.attn_mask[:3, :3]
        tower = CausalTextTower(source)
        assert tower.text_dim == width
        with torch.no_grad():
            torch.testing.assert_close(tower(tokens)[0], source(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("contexts", [[[]], [[11, 12], [13, 14]]])
@pytest.mark.parametrize("start", [0, 1])
def test_an_end_token_by_its_id_and_no_start_token(start, contexts):
    """As open_clip's multilingual towers have them."""
    source = randomise(small_transformer(pool_type="eos", eos_id=2))
    rows = [[40] * start + row for row in ([3, 2], [49, 48, 9, 2], [2])]
    assert_equal(CausalTextTower(source), source, source.token_embedding, rows, contexts, start=start, padding=1)


def test_more_tokens_than_positions():
    with pytest.raises(ValueError, match="14 tokens, but the text tower has only 13"):
        CausalTextTower(small_transformer())(torch.ones(1, 4, dtype=torch.int64), torch.zeros(1, 10, 32))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"no_causal_mask": True}, "no causal mask"),
        ({"embed_cls": True}, "class token"),
        ({"pool_type": "last"}, "reads out by 'last'"),
        ({"qk_norm": True}, "attention blocks are not CLIP's"),
    ],
)
def test_refuses_other_text_towers(options, problem):
    with pytest.raises(ValueError, match=problem):
        CausalTextTower(small_transformer(**options))
    with pytest.raises(ValueError, match="it is not open_clip's text transformer"):
        CausalTextTower(torch.nn.Linear(2, 2))
