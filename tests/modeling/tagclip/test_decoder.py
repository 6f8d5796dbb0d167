import pytest
import torch

from mta_clip.modeling.tagclip.decoder import AttentionToMaskDecoder, DecoderLayer, MaskAttention


def test_scores_are_the_mean_over_heads():
    attention = MaskAttention(dim=12, num_heads=3, dropout=0.0)
    queries, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    q = attention.q(queries).view(2, 5, 3, 4)
    k = attention.k(memory).view(2, 7, 3, 4)
    per_head = torch.einsum("bqhd,bphd->bhqp", q, k) / 4**0.5
    torch.testing.assert_close(attention.scores(queries, memory), per_head.mean(1), atol=1e-6, rtol=1e-5)

    v = attention.v(memory).view(2, 7, 3, 4)
    fetched = torch.einsum("bhqp,bphd->bqhd", per_head.softmax(-1), v).flatten(2)
    torch.testing.assert_close(attention(queries, memory), attention.proj(fetched), atol=1e-6, rtol=1e-5)


def test_unused_parameters_change_nothing():
    lean = AttentionToMaskDecoder(dim=12, num_heads=3).eval()
    full = AttentionToMaskDecoder(dim=12, num_heads=3, keep_unused=True).eval()
    missing, unexpected = full.load_state_dict(lean.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("layers.1.norm1.", "layers.2.")) for name in missing)
    queries, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    assert torch.equal(lean(queries, memory), full(queries, memory))


def test_queries_mix_in_the_first_layer_only():
    memory = torch.randn(1, 7, 12)
    queries = torch.randn(1, 5, 12)
    changed = queries.clone()
    changed[0, 0] += 1
    for self_attention in (True, False):
        layer = DecoderLayer(dim=12, num_heads=3, dropout=0.0, self_attention=self_attention).eval()
        same = torch.allclose(layer(queries, memory)[0, 1:], layer(changed, memory)[0, 1:], atol=1e-6)
        assert same != self_attention


def test_order_of_queries_does_not_matter():
    decoder = AttentionToMaskDecoder(dim=12, num_heads=3).eval()
    queries, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(decoder(queries[:, order], memory), decoder(queries, memory)[:, order])


def test_unfit_sizes_are_refused():
    with pytest.raises(ValueError, match="10 cannot be split into 3 heads"):
        AttentionToMaskDecoder(dim=10, num_heads=3)
    with pytest.raises(ValueError, match="got 1"):
        AttentionToMaskDecoder(dim=12, num_heads=3, num_layers=1)
