"""The image encoder over every kind of tower: shapes, gradients, modes; and as a Detectron2 backbone."""

import copy
import math

import pytest
import torch
from detectron2.modeling import build_backbone
from tiny_towers import CHANNELS as SMALL
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling.clip import CLIPImageEncoder
from mta_clip.modeling.clip.batch_norm import SyncBatchNorm2d

CHANNELS = {
    **SMALL,
    "RN50": (256, 512, 1024, 2048),
    "RN101": (256, 512, 1024, 2048),
    "ViT-B-16": (768,) * 4,
}


def check_maps(encoder: CLIPImageEncoder, height: int, width: int, channels: tuple[int, ...]) -> None:
    with torch.no_grad():
        maps = encoder(torch.randn(2, 3, height, width))
    shapes = encoder.output_shape()
    assert list(maps) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for features, shape, stride, wanted in zip(maps.values(), shapes.values(), (4, 8, 16, 32), channels, strict=True):
        assert (shape.stride, shape.channels) == (stride, wanted)
        assert features.shape == (2, wanted, math.ceil(height / stride), math.ceil(width / stride))
        assert features.isfinite().all()


@pytest.mark.parametrize("name", [*SMALL, "RN50", "RN101", "ViT-B-16"])
def test_shapes(name):
    encoder = CLIPImageEncoder(name=name).eval()
    check_maps(encoder, 64, 96, CHANNELS[name])
    if name in SMALL:
        check_maps(encoder, 75, 34, CHANNELS[name])


@pytest.mark.parametrize("name", SMALL)
def test_padding_is_that_of_the_caller(name):
    encoder = CLIPImageEncoder(name=name).eval()
    images = torch.randn(1, 3, 50, 64)
    with torch.no_grad():
        maps, padded = encoder(images), encoder(nn.functional.pad(images, (0, 0, 0, 14)))
    for features, expected in zip(maps.values(), padded.values(), strict=True):
        torch.testing.assert_close(features, expected[:, :, : features.shape[2]])


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name):
    encoder = CLIPImageEncoder(name=name, quick_gelu=not name.startswith("timm:"))
    for parameter in encoder.parameters():
        if parameter.ndim == 1:  # CLIP's ResNet starts the last norm of each block at zero, others layer scales near it
            nn.init.normal_(parameter)
    maps = encoder(torch.randn(2, 3, 64, 64))
    sum((features * torch.randn_like(features)).sum() for features in maps.values()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def own_parameters(encoder: CLIPImageEncoder) -> int:
    """Parameters that the adapter adds to the tower."""
    return sum(p.numel() for n, p in encoder.tower.named_parameters() if not n.startswith("visual."))


@pytest.mark.parametrize("name", SMALL)
def test_freeze_at_counts_stages(name):
    full = CLIPImageEncoder(name=name)
    trainable = [sum(p.numel() for p in full.parameters())]
    for freeze_at in range(1, 6):
        encoder = CLIPImageEncoder(name=name, freeze_at=freeze_at)
        trainable.append(sum(p.numel() for p in encoder.parameters() if p.requires_grad))
        maps = encoder(torch.randn(1, 3, 64, 64))
        # Necks and norms of maps are never frozen; a map is without gradient once all that leads to it is.
        if own_parameters(encoder) == 0:
            assert [features.requires_grad for features in maps.values()] == [i >= freeze_at - 1 for i in range(4)]
    assert trainable == sorted(set(trainable), reverse=True)
    assert trainable[-1] == own_parameters(full)


def norms_of(encoder: CLIPImageEncoder) -> list[nn.BatchNorm2d]:
    return [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["mta-tiny", "timm:test_efficientnet"])
def test_frozen_batch_norm_keeps_its_statistics(name):
    encoder = CLIPImageEncoder(name=name, bn_mode="frozen")
    assert norms_of(encoder)
    before = copy.deepcopy(encoder.state_dict())
    for mode in (True, False, True):
        encoder.train(mode)
        assert not any(norm.training for norm in norms_of(encoder))
        encoder(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not any(p.requires_grad for norm in norms_of(encoder) for p in norm.parameters())
    assert next(encoder.parameters()).requires_grad  # the first convolution
    duplicate = copy.deepcopy(encoder).train()
    assert not any(norm.training for norm in norms_of(duplicate))


def test_freezing_stages_freezes_their_batch_norm():
    encoder = CLIPImageEncoder(name="mta-tiny", freeze_at=2).train()
    in_training = {n for n, m in encoder.tower.visual.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert in_training and all(name.startswith(("layer2", "layer3", "layer4")) for name in in_training)


def test_batch_norm_modes_share_their_state_dict():
    modes = {mode: CLIPImageEncoder(name="mta-tiny", bn_mode=mode) for mode in ("train", "frozen", "sync")}
    images = torch.randn(2, 3, 32, 32)
    modes["train"](images)  # moves the statistics
    for encoder in modes.values():
        encoder.load_state_dict(modes["train"].state_dict())
    assert {type(norm) for norm in norms_of(modes["sync"])} == {SyncBatchNorm2d}
    with torch.no_grad():
        expected = modes["train"].eval()(images)["res5"]
        for encoder in modes.values():
            assert torch.equal(encoder.eval()(images)["res5"], expected)


def test_the_norm_of_a_neck_by_key():
    cfg = get_cfg()
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "test-timm-vit", ""
    assert not norms_of(build_backbone(cfg))
    cfg.MODEL.CLIP.VIT_NECK_NORM = "SyncBN"
    for mode in ("train", "frozen", "sync"):  # of the image tower; the neck is new, and always trained
        cfg.MODEL.CLIP.BN_MODE = mode
        encoder = build_backbone(cfg).train()
        (norm,) = norms_of(encoder)
        assert type(norm) is SyncBatchNorm2d and norm.training and norm.weight.requires_grad
        check_maps(encoder, 64, 96, CHANNELS["test-timm-vit"])


def test_autocast():
    for name in ("mta-tiny", "mta-tiny-vit"):
        encoder = CLIPImageEncoder(name=name).eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            maps = encoder(torch.randn(1, 3, 64, 64))
        assert all(features.isfinite().all() for features in maps.values())


def test_is_a_detectron2_backbone():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "CLIPImageEncoder"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.CLIP.NAME = "mta-tiny-vit"
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.CLIP.VIT_FEATURE_BLOCKS = [0, 1, 1, 3]
    encoder = build_backbone(cfg)
    assert encoder.tower.taps == [0, 1, 1, 3]
    assert encoder.size_divisibility == 32
    assert not encoder.tower.visual.conv1.weight.requires_grad


def test_bad_settings():
    with pytest.raises(ValueError, match="BN_MODE is 'eval', expected train, frozen or sync"):
        CLIPImageEncoder(name="mta-tiny", bn_mode="eval")
    with pytest.raises(ValueError, match="FREEZE_AT is 6"):
        CLIPImageEncoder(name="mta-tiny", freeze_at=6)
    for blocks in ([3, 5, 7, 11], [0, 1, 2], [0, 2, 1, 3], [-1, 0, 1, 2]):
        with pytest.raises(ValueError, match=r"four ascending blocks between 0 and 3, as the tower has 4, or \[\]"):
            CLIPImageEncoder(name="mta-tiny-vit", vit_feature_blocks=blocks)
