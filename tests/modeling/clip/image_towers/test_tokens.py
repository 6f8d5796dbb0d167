"""What plain transformers share: the neck, the blocks that are read, and images that fit the patches."""

import pytest
import torch
from tiny_towers import visual_of

from mta_clip.modeling.clip.image_towers import ScaleNeck, build_feature_tower


def test_vit_neck_parameter_count():
    """DenseCLIP's four levels at width 768: three deconvolutions, one norm between, four norms before."""
    neck = ScaleNeck(width=768, stride=16)
    assert sum(p.numel() for p in neck.parameters()) == 7_087_872


def test_vit_neck_with_synchronised_batch_norm():
    """MTA-CLIP's: one norm between the two deconvolutions, GroupNorm of one group at the start of each level."""
    neck = ScaleNeck(width=768, stride=16, norm="SyncBN")
    kinds = [[type(layer).__name__ for layer in level] for level in neck]
    assert kinds == [
        ["GroupNorm", "ConvTranspose2d", "SyncBatchNorm2d", "GELU", "ConvTranspose2d"],
        ["GroupNorm", "ConvTranspose2d"],
        ["GroupNorm"],
        ["GroupNorm", "MaxPool2d"],
    ]
    assert sum(p.numel() for p in neck.parameters()) == 7_087_872
    with pytest.raises(ValueError, match="VIT_NECK_NORM is 'BN', expected one of GN, SyncBN"):
        ScaleNeck(width=4, stride=16, norm="BN")


@pytest.mark.parametrize("stride, sides", [(16, (24, 12, 6, 3)), (8, (12, 6, 3, 1)), (32, (48, 24, 12, 6))])
def test_neck_scales_any_token_stride(stride, sides):
    neck = ScaleNeck(width=4, stride=stride)
    maps = neck([torch.randn(1, 4, 6, 6)] * 4)
    assert [tuple(features.shape) for features in maps] == [(1, 4, side, side) for side in sides]
    torch.testing.assert_close(maps[{8: 1, 16: 2, 32: 3}[stride]].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_taps_default_to_quarters():
    assert build_feature_tower(visual_of("test-vit-14")).taps == [1, 2, 3, 4]
    assert build_feature_tower(visual_of("mta-tiny-vit")).taps == [0, 1, 2, 3]
    assert build_feature_tower(visual_of("test-timm-vit")).taps == [2, 5, 8, 11]


@pytest.mark.parametrize("name", ["test-vit-14", "test-timm-vit"])
def test_dropped_blocks_are_reported(name, caplog):
    visual = visual_of(name)
    blocks = len(visual.transformer.resblocks if name == "test-vit-14" else visual.trunk.blocks)
    tower = build_feature_tower(visual, [0, 1, 1, 2])
    assert f"[0, 1, 1, 2] drops the last {blocks - 3} of the tower's {blocks} blocks" in caplog.text
    assert len(tower.visual.transformer.resblocks if name == "test-vit-14" else tower.visual.blocks) == 3
    caplog.clear()
    build_feature_tower(visual_of(name), [0, 1, 1, blocks - 1])
    build_feature_tower(visual_of(name))
    assert not caplog.messages


def test_patches_of_14_pixels_cover_16():
    tower = build_feature_tower(visual_of("test-vit-14"))
    assert tower.token_stride == 16
    assert tower.fit_to_patches(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 56, 84)
    assert tower.token_maps(torch.zeros(1, 3, 64, 96))[0].shape == (1, 32, 4, 6)
