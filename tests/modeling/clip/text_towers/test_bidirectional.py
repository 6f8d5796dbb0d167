"""Towers without a causal mask against open_clip's."""

import pytest
import torch
from open_clip.transformer import TextTransformer
from text_oracle import assert_equal, own_and_expected, pad, randomise

from mta_clip.modeling.clip.text_towers import BidirectionalTextTower, adapt_text_tower

END = 49
ROWS = [[3, END], [7, 8, 9, END], [5, 5, END]]


def transformer(**options) -> TextTransformer:
    sizes = {"context_length": 12, "vocab_size": 50, "width": 32, "heads": 4, "layers": 3, "output_dim": 24}
    return randomise(TextTransformer(**{**sizes, "no_causal_mask": True, **options}))


@pytest.mark.parametrize("contexts", [[[]], [[11, 12, 10], [13, 14, 15]]])
@pytest.mark.parametrize(
    "options, start, padding",
    [
        ({"pool_type": "last", "proj_bias": True}, 0, 1),  # SigLIP
        ({"pool_type": "last", "qk_norm": True}, 1, 0),  # CLIPA's pooling
        ({"pool_type": "argmax"}, 1, 0),  # MobileCLIP
        ({"pool_type": "eos", "eos_id": END, "proj_type": "none"}, 0, 1),
        ({"pool_type": "first"}, 1, 0),
    ],
)
def test_equals_open_clip(options, start, padding, contexts):
    source = transformer(**options)
    tower = adapt_text_tower(source)
    assert type(tower) is BidirectionalTextTower
    rows = [[2] * start + row for row in ROWS]
    assert_equal(tower, source, source.token_embedding, rows, contexts, start=start, padding=padding)
    assert tower.text_dim == source(pad(rows, 12, padding)).shape[1]


def test_checkpointing_changes_nothing():
    source = transformer(pool_type="last")
    results = []
    for checkpointing in (False, True):
        tower = adapt_text_tower(source, checkpointing=checkpointing)
        features, _ = own_and_expected(tower, source, source.token_embedding, ROWS, [[11], [12]], start=0, padding=1)
        (gradient,) = torch.autograd.grad(features[..., 0].sum(), source.token_embedding.weight)
        results.append((features, gradient))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert results[0][1][11].abs().max() > 0


def test_refusals():
    with pytest.raises(ValueError, match="only 12 positions"):
        adapt_text_tower(transformer(pool_type="last"))(torch.ones(1, 13, dtype=torch.int64), start=0)
    with pytest.raises(ValueError, match="it masks padding"):
        adapt_text_tower(transformer(use_pad_mask=True))
    with pytest.raises(ValueError, match="it is causal"):
        BidirectionalTextTower(transformer(no_causal_mask=False))
