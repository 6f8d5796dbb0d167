import pytest
import torch
from torch import nn

from mta_clip.modeling.transformer_decoder.layers import MLP, MaskedDecoderLayer, MultiheadAttention


def test_attention_equals_pytorchs_own():
    attention, reference = MultiheadAttention(embed_dim=12, num_heads=3), nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    reference.load_state_dict(attention.state_dict())
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    bias = torch.zeros(2, 5, 7).masked_fill(torch.rand(2, 5, 7) < 0.5, -1e30)
    bias[..., 0] = 0
    expected, _ = reference(query, key, value, attn_mask=bias.repeat_interleave(3, dim=0))
    torch.testing.assert_close(attention(query, key, value, bias), expected, atol=1e-6, rtol=1e-5)
    expected, _ = reference(query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected, atol=1e-6, rtol=1e-5)


def test_attention_in_bfloat16_stays_close():
    attention = MultiheadAttention(embed_dim=12, num_heads=3)
    query, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    expected = attention(query, memory, memory)
    with torch.autocast("cpu", torch.bfloat16):
        result = attention(query, memory, memory)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, atol=0.02, rtol=0.02)


def test_layer_equals_pytorchs_decoder_layer_with_cross_attention_first():
    layer = MaskedDecoderLayer(embed_dim=8, num_heads=2, feedforward_dim=16)
    queries, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    position, keys = torch.randn(5, 8), torch.randn(2, 7, 8)
    bias = torch.zeros(2, 5, 7)
    x = layer.cross_attn_norm(queries + layer.cross_attn(queries + position, keys, memory, bias))
    x = layer.self_attn_norm(x + layer.self_attn(x + position, x + position, x))
    expected = layer.ffn_norm(x + layer.linear2(layer.linear1(x).relu()))
    torch.testing.assert_close(layer(queries, position, keys, memory, bias), expected)


def test_layer_sizes():
    layer = MaskedDecoderLayer(embed_dim=256, num_heads=8, feedforward_dim=2048)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in layer.named_children()}
    assert counts["self_attn"] + counts["self_attn_norm"] == 263_680
    assert counts["cross_attn"] + counts["cross_attn_norm"] == 263_680
    assert counts["linear1"] + counts["linear2"] + counts["ffn_norm"] == 1_051_392


def test_mlp():
    mlp = MLP(input_dim=4, hidden_dim=6, output_dim=3, num_layers=3)
    x = torch.randn(2, 4)
    expected = mlp.layers[2](mlp.layers[1](mlp.layers[0](x).relu()).relu())
    torch.testing.assert_close(mlp(x), expected)
    assert [(layer.in_features, layer.out_features) for layer in mlp.layers] == [(4, 6), (6, 6), (6, 3)]


def test_the_width_must_split_into_heads():
    with pytest.raises(ValueError, match="multiple"):
        MultiheadAttention(embed_dim=10, num_heads=4)
