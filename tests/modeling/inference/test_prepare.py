"""A prepared model gives what it gave before."""

import pytest
import torch
from tiny_models import batch, tiny_model
from torch import nn

from mta_clip.modeling.inference import prepare_for_inference
from mta_clip.modeling.inference.prepare import _with_constant_weights, cast_weights


@pytest.mark.parametrize("full_precision", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_weights_in_bfloat16_change_nothing(text, full_precision):
    key = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION"
    model = tiny_model("TEST.PRECISION", "bfloat16", key, full_precision, text=text).eval()
    parts = {"backbone": model.backbone, "decoder": model.sem_seg_head.transformer_decoder}
    parts["pixel decoder"] = model.sem_seg_head.pixel_decoder
    expected = [result["sem_seg"] for result in model(batch())]
    for module in model.autocast_modules():
        cast_weights(module, torch.bfloat16)
    for result, scores in zip(model(batch()), expected, strict=True):
        assert torch.equal(result["sem_seg"], scores)
    stored = {
        name: {n: m.weight.dtype for n, m in part.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        for name, part in parts.items()
    }
    assert set(stored["pixel decoder"].values()) == {torch.float32 if full_precision else torch.bfloat16}
    assert set(stored["decoder"].values()) == {torch.bfloat16}
    first = [name for name, dtype in stored["backbone"].items() if dtype == torch.float32]
    assert len(first) == 1 and first[0].endswith("conv1") and ".layer" not in first[0]


def test_cast_matrices_lie_input_major():
    linear = nn.Linear(3, 5)
    weight = linear.weight.detach().bfloat16()
    cast_weights(linear, torch.bfloat16)
    assert torch.equal(linear.weight, weight)
    assert linear.weight.stride() == (1, 5) and linear.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_prepared_model_agrees(precision):
    model = tiny_model("TEST.PRECISION", precision).eval()
    expected = [result["sem_seg"] for result in model(batch())]
    assert prepare_for_inference(model) is model
    tolerance = 1e-4 if precision == "float32" else 0.05
    for result, scores in zip(model(batch()), expected, strict=True):
        torch.testing.assert_close(result["sem_seg"], scores, rtol=tolerance, atol=tolerance)
    # a vocabulary is encoded outside of autocast
    if precision == "bfloat16":
        model.set_vocabulary(["sea", "boat"])
        assert model(batch())[0]["sem_seg"].shape[0] == 2


@pytest.mark.parametrize("compiled", [True, False])
def test_networks_are_compiled_by_key_only(compiled):
    model = prepare_for_inference(tiny_model("MODEL.COMPILE", compiled).eval())
    assert [network._compiled_call_impl is not None for network in model.networks()] == [compiled] * 3


def test_weights_are_constants_only_in_calls_of_prepared_networks():
    from torch._inductor import config

    assert _with_constant_weights(lambda value: value and config.freezing)(True)
    assert not config.freezing


def test_refuses_a_model_in_training():
    with pytest.raises(ValueError, match="eval"):
        prepare_for_inference(tiny_model())
