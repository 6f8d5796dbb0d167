"""Parts of open_clip's text transformer: parameter names, the end of a text, the projection."""

import pytest
import torch
from open_clip.transformer import TextTransformer

from mta_clip.modeling.clip.text_towers import adapt_text_tower


def transformer(**options) -> TextTransformer:
    return TextTransformer(context_length=6, vocab_size=50, width=16, heads=2, layers=1, output_dim=24, **options)


@pytest.mark.parametrize("options", [{}, {"embed_cls": True}, {"no_causal_mask": True}, {"proj_bias": True}])
def test_parameters_are_shared_and_keep_their_names(options):
    source = transformer(**options)
    tower = adapt_text_tower(source)
    assert dict(tower.named_parameters()).keys() == dict(source.named_parameters()).keys()
    assert all(tower.get_parameter(name) is parameter for name, parameter in source.named_parameters())


def test_the_end_of_a_text():
    tokens = torch.tensor([[9, 3, 2, 1, 1], [2, 30, 1, 1, 1], [4, 4, 2, 2, 2]])
    assert adapt_text_tower(transformer()).ends(tokens).tolist() == [0, 1, 0]
    assert adapt_text_tower(transformer(pool_type="eos", eos_id=2)).ends(tokens).tolist() == [2, 0, 2]


@pytest.mark.parametrize("options, width", [({}, 24), ({"proj_bias": True}, 24), ({"proj_type": "none"}, 16)])
def test_projection(options, width):
    tower, features = adapt_text_tower(transformer(**options)), torch.randn(3, 16)
    assert tower.text_dim == width
    matrix, bias = tower.text_projection, 0
    if options.get("proj_bias"):
        matrix, bias = matrix.weight.T, matrix.bias
    torch.testing.assert_close(tower.project(features), features if matrix is None else features @ matrix + bias)
