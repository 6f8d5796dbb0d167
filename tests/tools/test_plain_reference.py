"""The plain training step that the benchmark compares with does the same work: equal losses and gradients."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import batch, tiny_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from plain_reference import plain_losses


def gradients(model, losses):
    model.zero_grad()
    sum(losses.values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_losses_and_gradients_equal_those_of_the_package(size):
    model = tiny_model().train()
    for layer in model.sem_seg_head.pixel_decoder.layers:
        # Samples start on pixel centres, where bilinear interpolation has no unique slope: move them away.
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.02)
    samples = batch(count=2, size=size)
    images = model.preprocess(samples).tensor
    sem_segs = [sample["sem_seg"] for sample in samples]

    results = []
    for losses_of in (model.losses, lambda *inputs: plain_losses(model, *inputs)):
        torch.manual_seed(3)
        losses = losses_of(images, sem_segs)
        results.append((losses, gradients(model, losses)))
    (ours, our_gradients), (plain, plain_gradients) = results

    assert ours.keys() == plain.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert our_gradients.keys() == plain_gradients.keys()
    largest = max(g.abs().max() for g in plain_gradients.values())
    for name, gradient in plain_gradients.items():
        # As norms: rounding moves a sample or an activation across a kink, where single entries differ by more.
        difference = (our_gradients[name] - gradient).norm()
        assert difference <= 0.01 * gradient.norm() + 1e-4 * largest, name
