"""What has to hold on CUDA: the CPU's numbers, and training in half precision."""

import pytest
import torch
from tiny_models import batch, tiny_model

from mta_clip.modeling.pixel_decoder import multi_scale_deformable_attention

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
WITH_AND_WITHOUT_TEXT = pytest.mark.parametrize("text", [True, False], ids=["mta-clip", "mask2former"])


def test_deformable_attention_equals_the_cpu():
    shapes = [(5, 7), (10, 13), (20, 26)]
    value = torch.randn(2, sum(h * w for h, w in shapes), 4, 8)
    locations = torch.rand(2, 50, 4, len(shapes), 4, 2) * 1.8 - 0.4  # many outside
    weights = torch.rand(2, 50, 4, len(shapes), 4)
    gradient = torch.randn(2, 50, 32)
    results = {}
    for device in ("cpu", "cuda"):
        inputs = [x.to(device, copy=True).requires_grad_() for x in (value, locations, weights)]
        output = multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:])
        results[device] = [output, *torch.autograd.grad(output, inputs, gradient.to(device))]
    for ours, expected in zip(results["cuda"], results["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu(), expected, atol=1e-4, rtol=1e-4)


@WITH_AND_WITHOUT_TEXT
def test_scores_equal_the_cpu(text):
    model, sample = tiny_model(text=text).eval(), batch(1)
    expected = model(sample)[0]["sem_seg"]
    scores = model.to("cuda")(sample)[0]["sem_seg"]
    assert scores.device.type == "cuda"
    torch.testing.assert_close(scores.cpu(), expected, atol=1e-3, rtol=1e-3)


@WITH_AND_WITHOUT_TEXT
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_training_step(text, dtype):
    model, samples = tiny_model(text=text).to("cuda").train(), batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0, enabled=dtype == torch.float16)
    before = model.sem_seg_head.transformer_decoder.class_embed.weight.detach().clone()
    with torch.autocast("cuda", dtype):
        losses = model(samples)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    scaler.scale(sum(losses.values())).backward()
    scaler.unscale_(optimizer)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    scaler.step(optimizer)
    assert not torch.equal(model.sem_seg_head.transformer_decoder.class_embed.weight, before)
