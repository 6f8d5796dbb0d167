"""timm's hierarchical models against timm's own way to give maps, and real weights against stored numbers."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from tiny_towers import visual_of

from mta_clip.modeling.clip import CLIPImageEncoder
from mta_clip.modeling.clip.image_towers import TimmPyramidTower, build_feature_tower

WEIGHTS = Path(os.environ.get("MTA_CLIP_WEIGHTS", "none"))
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="MTA_CLIP_WEIGHTS names no folder of real weights")


@pytest.mark.parametrize("name", ["test-timm-convnext", "timm:test_resnet", "timm:test_efficientnet"])
@torch.no_grad()
def test_equals_timm(name):
    visual, images = visual_of(name), torch.randn(1, 3, 64, 96)
    expected = getattr(visual, "trunk", visual).forward_intermediates(images, intermediates_only=True)[-4:]
    tower = build_feature_tower(visual)
    assert isinstance(tower, TimmPyramidTower)
    for features, wanted in zip(tower(images), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_what_maps_do_not_need_is_gone():
    names = {key for key, _ in build_feature_tower(visual_of("test-timm-convnext")).visual.named_parameters()}
    assert names and not any(key.startswith(("head", "norm")) for key in names)


def test_a_level_has_all_stages_that_lead_to_its_map():
    """EfficientNet has two stages at stride 16, and two at stride 32."""
    with torch.device("meta"):
        tower = TimmPyramidTower(timm.create_model("tf_efficientnet_lite2", num_classes=0))
    blocks = list(tower.visual.blocks)
    positions = [[blocks.index(stage) for stage in level] for level in tower.levels()]
    assert positions == [[1], [2], [3, 4], [5, 6]]


@pytest.mark.parametrize("name", ["maxvit_tiny_tf_224", "swinv2_tiny_window8_256", "hrnet_w18_small"])
def test_models_of_one_image_size_or_shape_are_refused(name):
    with torch.device("meta"):
        visual = timm.create_model(name, num_classes=0)
        with pytest.raises(
            ValueError, match="is not supported: it does not run on images of any size, or is not a seq"
        ):
            build_feature_tower(visual)


@needs_weights
@torch.no_grad()
def test_efficientnet_with_real_weights():
    """The model's own head, on our last map, gives the stored logits."""
    path, reference = WEIGHTS / "efficientnet_lite2_imagenet.safetensors", np.load(WEIGHTS / "reference.npz")
    encoder = CLIPImageEncoder(name="timm:tf_efficientnet_lite2", pretrained=str(path)).eval()
    model = timm.create_model("tf_efficientnet_lite2").eval()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    last = encoder(torch.from_numpy(reference["image"]).float())["res5"]
    logits = model.forward_head(model.bn2(model.conv_head(last)))
    torch.testing.assert_close(logits, torch.from_numpy(reference["efficientnet_lite2"]).float(), rtol=1e-4, atol=1e-4)


@needs_weights
@torch.no_grad()
def test_resnet_with_real_weights():
    reference = np.load(WEIGHTS / "reference.npz")
    encoder = CLIPImageEncoder(name="timm:resnet50", pretrained=str(WEIGHTS / "resnet50_imagenet.safetensors")).eval()
    for name in ("layer2", "layer3", "layer4"):  # these weights stride in the first convolution of a block
        block = getattr(encoder.tower.visual, name)[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    features = encoder(torch.from_numpy(reference["image"]).float())["res5"][0, :64]
    torch.testing.assert_close(features, torch.from_numpy(reference["resnet50"]).float(), rtol=1e-4, atol=1e-4)
