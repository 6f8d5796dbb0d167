"""The adapters against open_clip's own towers, and their parts against closed forms."""

import copy
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mta_clip.modeling.clip.feature_towers import ScaleNeck, ViTTower, build_feature_tower, resize_positions
from mta_clip.modeling.clip.towers import build_clip

open_clip.add_model_config(Path(__file__).parent / "model_configs")


def visual_of(name: str) -> nn.Module:
    visual = build_clip(name=name, quick_gelu=True).visual.eval()
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # the last norm of a block starts at zero and would hide it
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return visual


@pytest.mark.parametrize("name, side", [("RN50", 224), ("mta-tiny", 96)])
@torch.no_grad()
def test_resnet_equals_open_clip(name, side):
    visual = visual_of(name)
    images, recorded = torch.randn(1, 3, side, side), []
    handle = visual.layer4.register_forward_hook(lambda module, inputs, output: recorded.append(output))
    visual(images)
    handle.remove()
    maps = build_feature_tower(visual, ())(images)
    assert recorded[0].shape == (1, maps[3].shape[1], side // 32, side // 32)
    torch.testing.assert_close(maps[3], recorded[0])


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


@pytest.mark.parametrize("name, side", [("test-timm-convnext", 64), ("test-timm-vit", 224), ("test-timm-eva-14", 256)])
@torch.no_grad()
def test_timm_equals_open_clip(name, side):
    visual = visual_of(name)
    images = torch.randn(1, 3, side, side)
    pyramid = "convnext" in name
    native = images if pyramid else build_feature_tower(copy.deepcopy(visual), ()).fit_to_patches(images)
    expected = visual.forward_intermediates(native, indices=4)["image_intermediates"]
    tower = build_feature_tower(visual, (8, 9, 10, 11))
    maps = tower(images) if pyramid else tower.token_maps(images)
    for features, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_what_maps_do_not_need_is_gone():
    names = {name: {key for key, _ in build_feature_tower(visual_of(name), ()).visual.named_parameters()} for name in
             ("mta-tiny", "test-timm-convnext", "test-timm-vit")}  # fmt: skip
    assert not any(key.startswith("attnpool") for key in names["mta-tiny"])
    assert not any(key.startswith(("head", "norm")) for keys in names.values() for key in keys)
    vit = ViTTower(visual_of("mta-tiny-vit"), [0, 0, 1, 2])
    assert len(vit.visual.transformer.resblocks) == 3
    assert not any(key.startswith(("ln_post", "proj")) for key, _ in vit.visual.named_parameters())


def test_resnet50_parameter_count():
    assert sum(p.numel() for p in build_feature_tower(visual_of("RN50"), ()).parameters()) == 23_527_264


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
    assert build_feature_tower(visual_of("test-vit-14"), ()).taps == [1, 2, 3, 4]
    assert build_feature_tower(visual_of("mta-tiny-vit"), ()).taps == [0, 1, 2, 3]
    assert build_feature_tower(visual_of("test-timm-vit"), ()).taps == [2, 5, 8, 11]


@pytest.mark.parametrize("name", ["test-vit-14", "test-timm-vit"])
def test_dropped_blocks_are_reported(name, caplog):
    visual = visual_of(name)
    blocks = len(visual.transformer.resblocks if name == "test-vit-14" else visual.trunk.blocks)
    tower = build_feature_tower(visual, [0, 1, 1, 2])
    assert f"[0, 1, 1, 2] drops the last {blocks - 3} of the tower's {blocks} blocks" in caplog.text
    assert len(tower.visual.transformer.resblocks if name == "test-vit-14" else tower.visual.blocks) == 3
    caplog.clear()
    build_feature_tower(visual_of(name), [0, 1, 1, blocks - 1])
    build_feature_tower(visual_of(name), ())
    assert not caplog.messages


def test_patches_of_14_pixels_cover_16():
    tower = build_feature_tower(visual_of("test-vit-14"), ())
    assert tower.token_stride == 16
    assert tower.fit_to_patches(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 56, 84)
    assert tower.token_maps(torch.zeros(1, 3, 64, 96))[0].shape == (1, 32, 4, 6)


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


def test_timm_vit_gives_a_block_that_is_tapped_twice_twice():
    tower = build_feature_tower(visual_of("test-timm-vit"), [1, 1, 2, 3])
    with torch.no_grad():
        maps = tower.token_maps(torch.randn(1, 3, 32, 64))
    assert len(maps) == 4 and torch.equal(maps[0], maps[1])
    assert len(tower.visual.blocks) == 4


def test_other_towers_are_refused():
    with pytest.raises(ValueError, match="image tower Linear is not supported"):
        build_feature_tower(nn.Linear(2, 2), ())


def test_the_first_convolution_stays_in_float32_at_inference():
    tower = build_feature_tower(build_clip(name="mta-tiny").visual, ())
    dtypes = {}
    for part in ("conv1", "conv2", "layer1"):
        module = getattr(tower.visual, part)
        module.register_forward_hook(lambda _module, _inputs, output, part=part: dtypes.update({part: output.dtype}))
    for training in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tower.train(training)(torch.randn(2, 3, 64, 64))
        assert dtypes["conv2"] == dtypes["layer1"] == torch.bfloat16
        assert dtypes["conv1"] == (torch.bfloat16 if training else torch.float32)


def test_the_stem_is_clips():
    tower = build_feature_tower(build_clip(name="mta-tiny").visual, ()).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(tower._stem(images), tower.visual.stem(images))


@pytest.mark.parametrize("name", ["mta-tiny", "mta-tiny-vit", "test-timm-eva-14", "test-timm-convnext"])
def test_stages_hold_every_parameter_of_the_tower_once(name):
    tower = build_feature_tower(visual_of(name), ())
    parts = [part for stage in tower.stages() for part in stage]
    held = [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]
    assert sorted(map(id, held)) == sorted(map(id, tower.visual.parameters()))


@pytest.mark.slow
def test_architectures_of_open_clip():
    """README.md counts them: 125 of 144 in open_clip 3.3."""
    refused = ("MobileCLIP-B", "MobileCLIP2-B", "ViTamin-", "swin_", "vit_relpos_")
    names = [name for name in open_clip.list_models() if not name.startswith(("mta-", "test-"))]
    with torch.device("meta"):  # no memory for weights
        for name in names:
            config = open_clip.get_model_config(name)
            visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
            if name.startswith(refused):
                with pytest.raises(ValueError, match="is not supported"):
                    build_feature_tower(visual, ())
            else:
                build_feature_tower(visual, ())
    if open_clip.__version__.startswith("3.3."):
        assert (len(names), sum(not name.startswith(refused) for name in names)) == (144, 125)
