import pytest
import torch
from detectron2.layers import ShapeSpec

from mta_clip.config import get_cfg
from mta_clip.modeling.pixel_decoder import PIXEL_DECODERS, MSDeformAttnPixelDecoder

R50 = {f"res{i + 2}": ShapeSpec(channels=256 * 2**i, stride=4 * 2**i) for i in range(4)}
TINY = {f"res{i + 2}": ShapeSpec(channels=4 * (i + 1), stride=4 * 2**i) for i in range(4)}


def count(module):
    return sum(p.numel() for p in module.parameters())


def tiny(**kwargs):
    sizes = {"conv_dim": 16, "mask_dim": 12, "num_layers": 2, "num_heads": 2, "feedforward_dim": 24, "norm_groups": 4}
    return MSDeformAttnPixelDecoder(input_shape=TINY, **{**sizes, **kwargs})


def maps(height, width, batch=2):
    """Encoder maps of an image of any size, rounded up as convolutions with padding do."""
    return {
        name: torch.randn(batch, shape.channels, -(-height // shape.stride), -(-width // shape.stride))
        for name, shape in TINY.items()
    }


def test_parameter_counts_of_the_r50_configuration():
    cfg = get_cfg()
    decoder = PIXEL_DECODERS.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, R50)
    assert count(decoder) == 6_035_904
    assert count(decoder.input_proj) == 919_808
    assert count(decoder.layers) + decoder.level_embed.numel() == 4_393_920
    assert count(decoder.layers[0]) == 732_192
    assert count(decoder.layers[0].self_attn) == 205_600
    assert count(decoder.mask_features) == 65_792
    assert count(decoder.lateral_convs) == 66_048
    assert count(decoder.output_convs) == 590_336


@pytest.mark.parametrize(
    ("channels", "expected"), [(96, 5_421_504), (128, 5_544_384), (192, 5_790_144)], ids=["Swin-T", "Swin-B", "Swin-L"]
)
def test_parameter_counts_of_other_encoders(channels, expected):
    shape = {f"res{i + 2}": ShapeSpec(channels=channels * 2**i, stride=4 * 2**i) for i in range(4)}
    assert count(MSDeformAttnPixelDecoder(input_shape=shape)) == expected


@pytest.mark.parametrize("size", [(64, 96), (100, 75), (33, 32)])
def test_shapes_for_any_image_size(size):
    features = maps(*size)
    mask_features, memories = tiny()(features)
    assert mask_features.shape == (2, 12, *features["res2"].shape[-2:])
    assert [m.shape for m in memories] == [(2, 16, *features[f"res{i}"].shape[-2:]) for i in (5, 4, 3)]


def test_batch_members_do_not_mix():
    decoder, features = tiny().eval(), maps(40, 72)
    together, _ = decoder(features)
    for i in range(2):
        alone, _ = decoder({name: x[i : i + 1] for name, x in features.items()})
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_memory_layout_of_the_input_does_not_matter():
    decoder, features = tiny(), maps(40, 72)
    expected, _ = decoder(features)
    actual, _ = decoder({name: x.to(memory_format=torch.channels_last) for name, x in features.items()})
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_two_coarse_levels_leave_two_for_the_fpn():
    decoder, features = tiny(transformer_in_features=["res4", "res5"]), maps(64, 64)
    mask_features, memories = decoder(features)
    assert decoder.fpn_in_features == ["res3", "res2"]
    assert len(memories) == 2
    assert mask_features.shape[-2:] == features["res2"].shape[-2:]


def test_full_precision_ignores_autocast():
    decoder, features = tiny().eval(), maps(64, 64)
    expected, _ = decoder(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, memories = decoder(features)
    assert actual.dtype == memories[0].dtype == torch.float32
    assert torch.equal(actual, expected)


def test_otherwise_it_follows_autocast_and_stays_close():
    decoder, features = tiny(full_precision=False).eval(), maps(64, 64)
    expected, _ = decoder(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = decoder(features)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_gradients_reach_every_parameter():
    decoder = tiny(dropout=0.1)
    for layer in decoder.layers:  # zero at initialisation, where positions have no effect yet
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.1)
    mask_features, _ = decoder(maps(64, 64))
    mask_features.square().sum().backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_transformer_must_leave_a_finer_map():
    with pytest.raises(ValueError, match="some, but not all"):
        tiny(transformer_in_features=list(TINY))
    with pytest.raises(ValueError, match="res7"):
        tiny(transformer_in_features=["res7"])


def test_checkpointed_layers_run_twice_and_give_the_same_gradients():
    features, results, calls = maps(64, 64), [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        decoder = tiny(dropout=0.1, checkpointing=checkpointing).train()
        decoder.layers[0].register_forward_pre_hook(lambda *_, c=checkpointing: calls.append(c))
        decoder(features)[0].square().sum().backward()
        results.append({name: p.grad for name, p in decoder.named_parameters()})
    assert calls == [False, True, True]
    torch.testing.assert_close(*results)
