"""Folded BatchNorms change nothing but the time."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling.clip import CLIPImageEncoder
from mta_clip.modeling.inference.fold_batch_norm import fold_batch_norms


def clip_encoder() -> nn.Module:
    return CLIPImageEncoder(name="mta-tiny")


def detectron2_encoder() -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("build", [clip_encoder, detectron2_encoder])
def test_equals_the_model_with_its_norms(build):
    encoder = build().eval()
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert norms
    for norm in norms:
        for values, spread in ((norm.running_mean, 0.1), (norm.bias.data, 0.1), (norm.weight.data, 0.2)):
            values.add_(spread * torch.randn_like(values))
        norm.running_var.mul_(torch.rand_like(norm.running_var) + 0.5)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(images)
        folded = fold_batch_norms(encoder)(images)
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in encoder.modules())
    for name, values in expected.items():
        torch.testing.assert_close(folded[name], values, rtol=1e-4, atol=1e-4 * values.abs().max().item())


def test_refuses_a_model_in_training():
    with pytest.raises(ValueError, match="eval"):
        fold_batch_norms(clip_encoder().train())
