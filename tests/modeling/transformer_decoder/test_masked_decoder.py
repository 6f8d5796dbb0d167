import pytest
import torch
from torch.nn import functional as F

from mta_clip.config import get_cfg
from mta_clip.modeling.transformer_decoder import TRANSFORMER_DECODERS, MultiScaleMaskedTransformerDecoder


def tiny(**kwargs):
    sizes = {"in_channels": 16, "hidden_dim": 16, "num_queries": 6, "num_classes": 4, "num_heads": 2, "num_layers": 4}
    return MultiScaleMaskedTransformerDecoder(**{**sizes, "feedforward_dim": 24, "mask_dim": 12, **kwargs})


def inputs(batch=2, width=16, mask_dim=12):
    memories = [torch.randn(batch, width, *size) for size in ((2, 3), (4, 5), (7, 9))]
    return memories, torch.randn(batch, mask_dim, 13, 18)


def test_parameter_counts_of_the_r50_configuration():
    cfg = get_cfg()
    cls = TRANSFORMER_DECODERS.get("MultiScaleMaskedTransformerDecoder")
    counts = {}
    for classes in (150, 151, 19):
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
        decoder = cls(cfg, in_channels=256, mask_dim=256)
        counts[classes] = sum(p.numel() for p in decoder.parameters())
    assert counts[150] == 14_497_431
    assert counts[151] - counts[150] == 257
    assert counts[150] - counts[19] == 131 * 257
    assert len(decoder.layers) == 9


@pytest.mark.parametrize("num_layers", [0, 1, 5])
def test_training_gives_all_predictions_and_evaluation_the_last(num_layers):
    decoder = tiny(num_layers=num_layers)
    memories, mask_features = inputs()
    output = decoder.train()(memories, mask_features)
    assert len(output.layers) == num_layers + 1
    for layer in output.layers:
        assert layer.class_logits.shape == (2, 6, 5)
        assert layer.mask_embed.shape == (2, 6, 12)
        assert layer.similarity is None
    assert output.mask_logits().shape == (2, 6, 13, 18)
    final = decoder.eval()(memories, mask_features)
    assert len(final.layers) == 1
    torch.testing.assert_close(final.final.class_logits, output.final.class_logits)
    torch.testing.assert_close(final.mask_logits(), output.mask_logits())


def test_attention_masks_equal_resized_full_masks():
    decoder, (memories, mask_features) = tiny(), inputs()
    seen = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[-1]))
    output = decoder.train()(memories, mask_features)
    for i, bias in enumerate(seen):
        size = memories[i % 3].shape[-2:]
        resized = F.interpolate(output.mask_logits(i), size=size, mode="bilinear", align_corners=False).flatten(2)
        blocked = resized < 0
        blocked &= ~blocked.all(dim=-1, keepdim=True)
        decided = resized.abs() > 1e-5
        assert torch.equal((bias < 0)[decided], blocked[decided])
        assert set(bias.unique().tolist()) <= {0.0, torch.finfo(bias.dtype).min}


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_an_empty_mask_looks_everywhere(sign):
    decoder, (memories, mask_features) = tiny(), inputs()
    with torch.no_grad():  # every mask logit becomes -10 or +10
        decoder.mask_embed.layers[-1].weight.zero_()
        decoder.mask_embed.layers[-1].bias.zero_()[0] = 10 * sign
        mask_features[:, 0] = 1
    biases = []
    decoder.layers[0].register_forward_pre_hook(lambda _, args: biases.append(args[-1]))
    output = decoder.train()(memories, mask_features)
    assert biases[0].eq(0).all()
    assert all(layer.class_logits.isfinite().all() for layer in output.layers)


def test_a_logit_of_exactly_zero_is_visible():
    decoder, (memories, mask_features) = tiny(), inputs()
    with torch.no_grad():  # mask logits: 0 in the first image, -1 in the right half of the second
        decoder.mask_embed.layers[-1].weight.zero_()
        decoder.mask_embed.layers[-1].bias.zero_()[0] = -1
        mask_features[:, 0] = 0
        mask_features[1, 0, :, 9:] = 1
    biases = []
    decoder.layers[0].register_forward_pre_hook(lambda _, args: biases.append(args[-1]))
    decoder(memories, mask_features)
    first, second = biases[0].unflatten(-1, (2, 3)).unbind()
    assert first.eq(0).all()
    assert second[..., 0].eq(0).all()
    assert (second[..., 2] < 0).all()


def test_an_all_blocked_row_behaves_as_an_open_one():
    decoder, (memories, mask_features) = tiny().eval(), inputs()
    results = []
    for bias in (-10.0, 10.0):
        with torch.no_grad():
            decoder.mask_embed.layers[-1].weight.zero_()
            decoder.mask_embed.layers[-1].bias.zero_()[0] = bias
            mask_features[:, 0] = 1
        results.append(decoder(memories, mask_features).final.class_logits)
    torch.testing.assert_close(*results)


def test_memories_of_another_width_are_projected():
    decoder = tiny(in_channels=10)
    memories, mask_features = inputs(width=10)
    assert decoder(memories, mask_features).final.class_logits.shape == (2, 6, 5)
    assert isinstance(tiny(enforce_input_proj=True).input_proj[0], torch.nn.Conv2d)


def test_attention_masks_carry_no_gradient_but_every_parameter_gets_one():
    decoder = tiny().train()
    output = decoder(*inputs())
    sum(layer.class_logits.square().sum() for layer in output.layers).backward(retain_graph=True)
    assert decoder.mask_embed.layers[0].weight.grad is None
    sum(output.mask_logits(i).square().mean() for i in range(5)).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_runs_under_bfloat16_autocast():
    decoder, (memories, mask_features) = tiny().train(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = decoder(memories, mask_features)
        loss = output.final.class_logits.float().sum() + output.mask_logits().float().sum()
    loss.backward()
    assert loss.isfinite()


def test_wrong_inputs_are_named():
    memories, mask_features = inputs()
    with pytest.raises(ValueError, match="3 levels, but got 2"):
        tiny()(memories[:2], mask_features)
    with pytest.raises(ValueError, match="takes no text"):
        tiny()(memories, mask_features, torch.randn(1, 5, 8))


def test_checkpointed_layers_run_twice_and_give_the_same_gradients():
    memories, mask_features = inputs()
    results, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        decoder = tiny(checkpointing=checkpointing).train()
        decoder.layers[0].register_forward_pre_hook(lambda *_, c=checkpointing: calls.append(c))
        output = decoder(memories, mask_features)
        sum(layer.mask_embed.square().sum() + layer.class_logits.sum() for layer in output.layers).backward()
        results.append({name: p.grad for name, p in decoder.named_parameters()})
    assert calls == [False, True, True]
    torch.testing.assert_close(*results)
