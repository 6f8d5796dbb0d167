"""open_clip's ViTs against open_clip, and resized position tables against a closed form."""

import pytest
import torch
from tiny_towers import visual_of
from torch.nn import functional as F

from mta_clip.modeling.clip.image_towers import ViTTower, build_feature_tower, resize_positions


@pytest.mark.parametrize("name, side", [("ViT-B-16", 224), ("mta-tiny-vit", 96)])
@torch.no_grad()
def test_vit_equals_open_clip(name, side):
    visual = visual_of(name)
    depth = len(visual.transformer.resblocks)
    taps = [depth - 3, depth - 3, depth - 2, depth - 1]
    images = torch.randn(1, 3, side, side)
    expected = visual.forward_intermediates(images, indices=[depth - 3, depth - 2, depth - 1])["image_intermediates"]
    maps = build_feature_tower(visual, taps).token_maps(images)
    for features, wanted in zip(maps, [expected[0], *expected], strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_resized_positions():
    positions = torch.randn(1 + 3 * 2, 5)
    assert resize_positions(positions, (3, 2), (3, 2)) is positions
    resized = resize_positions(positions, (3, 2), (6, 7))
    assert torch.equal(resized[0], positions[0])
    grid = positions[1:].reshape(3, 2, 5).permute(2, 0, 1)
    expected = F.interpolate(grid[None], size=(6, 7), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resized[1:], expected.permute(1, 2, 0).reshape(42, 5))
    with pytest.raises(ValueError, match="7 rows"):
        resize_positions(positions, (3, 3), (4, 4))


def test_what_maps_do_not_need_is_gone():
    vit = ViTTower(visual_of("mta-tiny-vit"), [0, 0, 1, 2])
    assert len(vit.visual.transformer.resblocks) == 3
    assert not any(key.startswith(("ln_post", "proj")) for key, _ in vit.visual.named_parameters())
