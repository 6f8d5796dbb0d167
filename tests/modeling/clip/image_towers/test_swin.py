"""Swin Transformers against those of transformers, an independent implementation that also pads before it shifts."""

import re

import pytest
import timm
import torch
from tiny_towers import visual_of
from transformers import SwinBackbone, SwinConfig
from transformers_names import rename

from mta_clip.modeling.clip.image_towers import SwinTower, build_feature_tower

THEIR_NAMES = (
    (r"visual\.patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"visual\.patch_embed\.norm\.(.+)", r"embeddings.norm.\1"),
    (r"visual\.(layers\.\d\.blocks\.\d\.)norm1\.(.+)", r"encoder.\1layernorm_before.\2"),
    (r"visual\.(layers\.\d\.blocks\.\d\.)norm2\.(.+)", r"encoder.\1layernorm_after.\2"),
    (r"visual\.(layers\.\d\.blocks\.\d\.)mlp\.(.+)", r"encoder.\1mlp.\2"),
    (r"visual\.(layers\.\d\.blocks\.\d\.)attn\.proj\.(.+)", r"encoder.\1attention.o_proj.\2"),
    (
        r"visual\.(layers\.\d\.blocks\.\d\.)attn\.(relative_position_bias_table)",
        r"encoder.\1attention.relative_position_bias.\2",
    ),
)


def copy_from(theirs: SwinBackbone, tower: SwinTower) -> None:
    """Loads the weights of transformers' Swin into ours."""
    state = {name.removeprefix("swin."): value for name, value in theirs.state_dict().items()}

    def value_of(name: str) -> torch.Tensor:
        if match := re.fullmatch(r"norms\.(\d)\.(.+)", name):
            return state[f"hidden_states_norms.stage{int(match[1]) + 1}.{match[2]}"]
        if match := re.fullmatch(r"visual\.layers\.(\d)\.downsample\.(.+)", name):
            return state[f"encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"]
        if match := re.fullmatch(r"visual\.(.+)\.attn\.qkv\.(.+)", name):
            return torch.cat([state[f"encoder.{match[1]}.attention.{part}_proj.{match[2]}"] for part in "qkv"])
        return state[rename(name, THEIR_NAMES)]

    tower.load_state_dict({name: value_of(name) for name in tower.state_dict()})


@pytest.mark.parametrize("height, width", [(96, 96), (160, 224)], ids=["whole windows", "padded windows"])
@torch.no_grad()
def test_equals_transformers(height, width):
    sizes = {"embed_dim": 16, "depths": [2, 2, 3, 2], "num_heads": [1, 2, 4, 8], "window_size": 3}
    theirs = SwinBackbone(SwinConfig(image_size=96, out_features=[f"stage{i}" for i in range(1, 5)], **sizes)).eval()
    for parameter in theirs.parameters():  # biases and tables of positions start at zero, which would hide them
        parameter.add_(0.2 * torch.randn_like(parameter))
    tower = build_feature_tower(visual_of("timm:tiny_swin")).eval()
    copy_from(theirs, tower)
    images = torch.randn(2, 3, height, width)
    for features, expected in zip(tower(images), theirs(images).feature_maps, strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_equals_timm_where_nothing_is_padded():
    """At timm's own size. In its last stage, of one window, timm does not shift."""
    visual, images = visual_of("timm:tiny_swin"), torch.randn(1, 3, 96, 96)
    expected = visual.forward_intermediates(images, intermediates_only=True)[:3]
    tower = build_feature_tower(visual)
    maps = [norm(features.permute(0, 2, 3, 1)) for norm, features in zip(tower.norms[:3], expected, strict=True)]
    for features, wanted in zip(tower(images)[:3], maps, strict=True):
        torch.testing.assert_close(features, wanted.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_what_maps_do_not_need_is_gone():
    tower = build_feature_tower(visual_of("timm:tiny_swin"))
    assert not any(key.startswith(("visual.norm", "visual.head")) for key, _ in tower.named_parameters())


def test_every_second_block_shifts_its_windows():
    """Whatever the size of the map, while timm does not shift where a stage is one window."""
    with torch.device("meta"):
        tower = build_feature_tower(timm.create_model("swin_base_patch4_window12_384", num_classes=0))
    shifts = [[(block.window_size, block.shift_size) for block in layer.blocks] for layer in tower.visual.layers]
    for blocks in shifts:
        assert blocks == [((12, 12), (0, 0)), ((12, 12), (6, 6))] * (len(blocks) // 2)
