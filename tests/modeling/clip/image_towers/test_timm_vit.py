"""timm's transformers against timm's own way to give maps."""

import copy

import pytest
import torch
from tiny_towers import visual_of

from mta_clip.modeling.clip.image_towers import TimmViTTower, build_feature_tower


def test_timm_vit_gives_a_block_that_is_tapped_twice_twice():
    tower = build_feature_tower(visual_of("test-timm-vit"), [1, 1, 2, 3])
    with torch.no_grad():
        maps = tower.token_maps(torch.randn(1, 3, 32, 64))
    assert len(maps) == 4 and torch.equal(maps[0], maps[1])
    assert len(tower.visual.blocks) == 4


@pytest.mark.parametrize("name, side", [("test-timm-vit", 224), ("test-timm-eva-14", 256)])
@torch.no_grad()
def test_equals_open_clip(name, side):
    visual = visual_of(name)
    images = torch.randn(1, 3, side, side)
    native = build_feature_tower(copy.deepcopy(visual)).fit_to_patches(images)
    expected = visual.forward_intermediates(native, indices=4)["image_intermediates"]
    for features, wanted in zip(build_feature_tower(visual, (8, 9, 10, 11)).token_maps(images), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_hybrid_vit", "tiny_dinov3"])
@torch.no_grad()
def test_equals_timm(name):
    visual, images = visual_of(f"timm:{name}"), torch.randn(1, 3, 96, 96)
    expected = visual.forward_intermediates(images, intermediates_only=True)
    tower = build_feature_tower(visual)
    assert isinstance(tower, TimmViTTower) and tower.patch_size == 16
    for features, wanted in zip(tower.token_maps(images), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_what_maps_do_not_need_is_gone():
    names = {key for key, _ in build_feature_tower(visual_of("test-timm-vit")).visual.named_parameters()}
    assert names and not any(key.startswith(("head", "norm")) for key in names)
