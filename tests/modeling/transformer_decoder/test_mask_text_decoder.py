import pytest
import torch
from torch.nn import functional as F

from mta_clip.config import get_cfg
from mta_clip.modeling.outputs import LayerPrediction
from mta_clip.modeling.transformer_decoder import (
    TRANSFORMER_DECODERS,
    MaskTextDecoder,
    MultiScaleMaskedTransformerDecoder,
)

Q, Z, K, DT = 6, 3, 5, 20


def tiny(**kwargs):
    sizes = {"in_channels": 16, "hidden_dim": 16, "num_queries": Q, "num_classes": K - 1, "num_heads": 2}
    return MaskTextDecoder(
        num_contexts=Z, text_dim=DT, num_layers=4, feedforward_dim=24, mask_dim=12, **sizes, **kwargs
    )


def inputs(batch=2):
    memories = [torch.randn(batch, 16, *size) for size in ((2, 3), (4, 5), (7, 9))]
    return memories, torch.randn(batch, 12, 13, 18), torch.randn(Z, K, DT)


def test_shapes():
    output = tiny().train()(*inputs())
    assert len(output.layers) == 5
    for layer in output.layers:
        assert layer.class_logits.shape == (2, Q, K)
        assert layer.mask_embed.shape == (2, Q, 12)
        assert layer.similarity.shape == (Z, 2, Q, K)
        assert layer.aligned_mask_embed.shape == (2, Q, DT)
        assert layer.similarity.abs().max() <= 1 + 1e-6


def test_evaluation_equals_the_last_of_training():
    decoder, args = tiny(), inputs()
    trained, final = decoder.train()(*args).final, decoder.eval()(*args).final
    for name in ("class_logits", "mask_embed", "similarity", "aligned_mask_embed"):
        torch.testing.assert_close(getattr(final, name), getattr(trained, name))


def test_text_per_image_equals_shared_text():
    decoder, (memories, mask_features, text) = tiny().eval(), inputs()
    shared = decoder(memories, mask_features, text).final
    per_image = decoder(memories, mask_features, text[:, None].expand(-1, 2, -1, -1)).final
    torch.testing.assert_close(per_image.similarity, shared.similarity)
    torch.testing.assert_close(per_image.class_logits, shared.class_logits)


def test_text_that_differs_per_image_only_affects_its_image():
    decoder, (memories, mask_features, text) = tiny().eval(), inputs()
    text = torch.stack([text, torch.randn_like(text)], dim=1)
    both = decoder(memories, mask_features, text).final.class_logits
    for i in range(2):
        alone = decoder([m[i : i + 1] for m in memories], mask_features[i : i + 1], text[:, i]).final.class_logits
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_permuting_classes_permutes_the_similarity():
    decoder, (memories, mask_features, text) = tiny().eval(), inputs()
    order = torch.randperm(K)
    expected = decoder(memories, mask_features, text).final
    rows = decoder.query_embed.weight[Q:].detach().view(Z, K, -1)
    with torch.no_grad():  # a text query's position belongs to its class
        decoder.query_embed.weight[Q:] = rows[:, order].flatten(0, 1)
    actual = decoder(memories, mask_features, text[:, order]).final
    torch.testing.assert_close(actual.similarity, expected.similarity[..., order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.class_logits, expected.class_logits, atol=1e-5, rtol=1e-5)


def test_similarity_is_the_cosine_with_the_updated_text():
    decoder, args = tiny(gamma_init=0.5), inputs()
    normed = []
    decoder.decoder_norm.register_forward_hook(lambda _, __, output: normed.append(output))
    prediction = decoder.eval()(*args).final
    for z in range(Z):
        for k in range(K):
            token = normed[-1][:, Q + z * K + k]
            text = args[2][z, k] + decoder.gamma * decoder.text_update_norm(decoder.text_update(token))
            masks = decoder.mask_align(normed[-1][:, :Q])
            expected = F.cosine_similarity(masks, text[:, None], dim=-1)
            torch.testing.assert_close(prediction.similarity[z, :, :, k], expected, atol=1e-5, rtol=1e-5)


class TestOtherNames:
    def test_follow_names_not_positions(self):
        decoder, args = tiny().eval(), inputs()
        prediction = decoder(*args).final
        order = torch.randperm(K)
        similarity = prediction.similarity_to(args[2])
        torch.testing.assert_close(prediction.similarity_to(args[2][:, order]), similarity[..., order])

    def test_agree_with_the_training_rows_as_gamma_is_small(self):
        decoder, args = tiny(gamma_init=1e-4).eval(), inputs()
        prediction = decoder(*args).final
        torch.testing.assert_close(prediction.similarity_to(args[2]), prediction.similarity, atol=2e-4, rtol=0)

    def test_may_be_of_any_number_and_differ_per_image(self):
        prediction = tiny().eval()(*inputs()).final
        text = torch.randn(1, 11, DT)
        similarity = prediction.similarity_to(text)
        assert similarity.shape == (1, 2, Q, 11)
        torch.testing.assert_close(prediction.similarity_to(text[:, None].expand(-1, 2, -1, -1)), similarity)

    def test_need_a_text_side(self):
        with pytest.raises(ValueError, match="head with text"):
            LayerPrediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)).similarity_to(torch.zeros(1, 3, 4))


def test_text_queries_change_the_masks_and_the_ablation_has_none():
    memories, mask_features, text = inputs()
    for text_queries in (True, False):
        decoder = tiny(text_queries=text_queries).eval()
        one = decoder(memories, mask_features, text).final
        other = decoder(memories, mask_features, torch.randn_like(text)).final
        assert torch.equal(one.mask_embed, other.mask_embed) != text_queries
        assert not torch.equal(one.similarity, other.similarity)
    torch.testing.assert_close(one.similarity, one.similarity_to(text))
    assert decoder.query_embed.num_embeddings == Q


@pytest.mark.parametrize("text_queries", [True, False])
def test_gradients_reach_every_parameter_and_the_text(text_queries):
    decoder, (memories, mask_features, text) = tiny(text_queries=text_queries).train(), inputs()
    text.requires_grad_()
    output = decoder(memories, mask_features, text)
    loss = sum(output.mask_logits(i).square().mean() for i in range(5))
    loss = loss + sum(p.class_logits.square().sum() + p.similarity[..., 0].sum() for p in output.layers)
    loss.backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert text.grad.any()


def test_without_comparison_there_is_no_similarity_and_no_parameter_for_it():
    decoder, (memories, mask_features, text) = tiny(compare=False).train(), inputs()
    output = decoder(memories, mask_features, text)
    assert all(p.similarity is None and p.aligned_mask_embed is None for p in output.layers)
    loss = sum(output.mask_logits(i).square().mean() + p.class_logits.sum() for i, p in enumerate(output.layers))
    loss.backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []
    compared = dict(tiny().named_parameters()).keys() - dict(decoder.named_parameters()).keys()
    assert {name.split(".")[0] for name in compared} == {"mask_align", "text_update", "text_update_norm", "gamma"}


def test_text_must_have_a_part():
    with pytest.raises(ValueError, match="text has no part in the decoder"):
        tiny(text_queries=False, compare=False)


def test_text_queries_have_masked_attention_of_their_own():
    decoder, args = tiny(), inputs()
    biases = []
    decoder.layers[1].register_forward_pre_hook(lambda _, inputs: biases.append(inputs[-1]))
    decoder(*args)
    assert biases[0].shape == (2, Q + Z * K, 20)
    assert (biases[0][:, Q:] < 0).any()


def test_parameters_beyond_the_text_free_decoder():
    cfg = get_cfg()
    sizes = {}
    for name in ("MaskTextDecoder", "MultiScaleMaskedTransformerDecoder"):
        decoder = TRANSFORMER_DECODERS.get(name)(cfg, in_channels=256, mask_dim=256)
        sizes[name] = sum(p.numel() for p in decoder.parameters())
        assert isinstance(decoder, MultiScaleMaskedTransformerDecoder)
    d, dt, rows = 256, 1024, 3 * 151
    text_side = 2 * d + (dt * d + d) + 2 * (d * dt + dt) + 2 * dt + dt + rows * d
    assert sizes["MaskTextDecoder"] - sizes["MultiScaleMaskedTransformerDecoder"] == text_side


def test_runs_under_bfloat16_autocast():
    decoder, args = tiny().train(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = decoder(*args).final
    prediction.similarity.float().sum().backward()
    assert prediction.similarity.isfinite().all()


def test_is_deterministic():
    decoder, args = tiny().eval(), inputs()
    assert torch.equal(decoder(*args).final.similarity, decoder(*args).final.similarity)


@pytest.mark.parametrize("shape", [None, (Z, K + 1, DT), (Z + 1, K, DT), (Z, K, DT - 1)])
def test_text_of_other_classes_is_refused(shape):
    memories, mask_features, _ = inputs()
    with pytest.raises(ValueError, match=r"3 contexts, .*5 rows .*similarity_to"):
        tiny()(memories, mask_features, None if shape is None else torch.randn(shape))
