"""CLIP's ResNets against open_clip's."""

import pytest
import torch
from tiny_towers import visual_of

from mta_clip.modeling.clip.image_towers import build_feature_tower


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


def test_resnet50_parameter_count():
    assert sum(p.numel() for p in build_feature_tower(visual_of("RN50"), ()).parameters()) == 23_527_264


def test_the_first_convolution_stays_in_float32_at_inference():
    tower = build_feature_tower(visual_of("mta-tiny"), ())
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
    tower = build_feature_tower(visual_of("mta-tiny"), ()).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(tower._stem(images), tower.visual.stem(images))


def test_what_maps_do_not_need_is_gone():
    names = {key for key, _ in build_feature_tower(visual_of("mta-tiny")).visual.named_parameters()}
    assert not any(key.startswith("attnpool") for key in names)
