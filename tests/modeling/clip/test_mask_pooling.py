import open_clip
import pytest
import timm
import torch
from open_clip.timm_model import TimmModel

from mta_clip.modeling.clip import build_clip
from mta_clip.modeling.clip.mask_pooling import build_mask_pooler, covered_cells

SIDE = 96


def convnext():
    visual = TimmModel.__new__(TimmModel)
    torch.nn.Module.__init__(visual)
    visual.trunk = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0)
    visual.head = torch.nn.Linear(32, 12, bias=False)
    return visual


TOWERS = {
    "resnet": lambda: build_clip(name="mta-tiny").visual,
    "vit": lambda: build_clip(name="mta-tiny-vit").visual,
    "convnext": convnext,
}


@pytest.fixture(params=TOWERS, scope="module")
def pooler(request):
    torch.manual_seed(0)
    pooler = build_mask_pooler(TOWERS[request.param]()).eval()
    with torch.no_grad():  # away from initial zeros and small values, which would hide what attention does
        for parameter in pooler.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return pooler


@torch.no_grad()
def test_a_mask_over_the_image_gives_clips_own_embedding(pooler):
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = pooler.visual(images)
    regions = pooler(images, torch.ones(2, 3, SIDE // 4, SIDE // 4))
    torch.testing.assert_close(regions, expected[:, None].expand(-1, 3, -1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_masks_are_pooled_each_by_itself(pooler):
    images, logits = (
        torch.randn(2, 3, SIDE, 128),
        torch.randn(2, 4, 3, 4).repeat_interleave(8, 2).repeat_interleave(8, 3),
    )
    regions = pooler(images, logits)
    torch.testing.assert_close(pooler(images[1:], logits[1:, 2:3]), regions[1:, 2:3], atol=1e-5, rtol=1e-4)
    assert (regions[0, 0] - regions[0, 1]).abs().max() > 1e-3
    assert torch.equal(pooler(images, 5 * logits), regions)  # only where a mask is counts


@torch.no_grad()
def test_a_mask_of_nothing_is_where_it_is_most_likely(pooler):
    images, logits = torch.randn(1, 3, SIDE, SIDE), torch.full((1, 1, 24, 24), -3.0)
    logits[..., 8:16, :8] = -1.0
    expected = pooler(images, logits + 2)
    torch.testing.assert_close(pooler(images, logits), expected)
    assert expected.isfinite().all()


def test_cells_are_covered_where_the_mean_logit_is_positive():
    logits = torch.tensor([[[[3.0, -1.0, -1.0, -1.0]], [[-4.0, -4.0, -2.0, -3.0]]]])
    assert covered_cells(logits, (1, 2)).tolist() == [[[True, False], [False, True]]]


@torch.no_grad()
def test_images_that_do_not_fit_the_patches_are_resized():
    pooler = build_mask_pooler(build_clip(name="mta-tiny-vit").visual).eval()
    assert pooler(torch.randn(1, 3, 99, 70), torch.randn(1, 2, 25, 18)).shape == (1, 2, 128)


def test_towers_that_pool_in_another_way_are_refused():
    average = open_clip.transformer.VisionTransformer(32, 8, 32, 1, 2, 2.0, output_dim=16, pool_type="avg")
    siglip = torch.nn.Module()
    siglip.trunk = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    for visual in (average, siglip):
        with pytest.raises(ValueError, match=r"no way is known to pool a VisionTransformer.*class token.*CLIP\.NAME"):
            build_mask_pooler(visual)
