"""Image towers that are small enough for many tests, of every kind."""

from pathlib import Path

import open_clip
from timm.models import register_model
from timm.models.eva import Eva, _create_eva
from timm.models.swin_transformer import SwinTransformer, _create_swin_transformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, _create_vision_transformer_hybrid
from torch import nn

from mta_clip.modeling.clip import build_visual

open_clip.add_model_config(Path(__file__).parents[1] / "modeling" / "clip" / "model_configs")

# Width of each map.
CHANNELS = {
    "mta-tiny": (96, 192, 384, 768),
    "mta-tiny-vit": (128,) * 4,
    "test-vit-14": (32,) * 4,
    "test-timm-convnext": (40, 80, 160, 320),
    "test-timm-vit": (192,) * 4,
    "test-timm-eva-14": (192,) * 4,
    "timm:test_resnet": (32, 48, 192, 96),
    "timm:test_efficientnet": (24, 32, 48, 64),
    "timm:tiny_swin": (16, 32, 64, 128),
    "timm:tiny_hybrid_vit": (32,) * 4,
    "timm:tiny_dinov3": (32,) * 4,
}


@register_model
def tiny_swin(pretrained: bool = False, **kwargs) -> SwinTransformer:
    """Windows of 3 tokens, which do not fit into most maps."""
    sizes = {"embed_dim": 16, "depths": (2, 2, 3, 2), "num_heads": (1, 2, 4, 8), "window_size": 3}
    return _create_swin_transformer("tiny_swin", img_size=96, **sizes, **kwargs)


@register_model
def tiny_hybrid_vit(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """Embeds patches of 16 pixels by convolutions, like MobileCLIP-B and ViTamin."""
    stem = ConvStem(channels=(8, 16, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0)
    sizes = {"embed_dim": 32, "depth": 4, "num_heads": 2, "no_embed_class": True}
    return _create_vision_transformer_hybrid(
        "tiny_hybrid_vit", backbone=stem, embed_args={"proj": False}, img_size=96, **sizes, **kwargs
    )


@register_model
def tiny_dinov3(pretrained: bool = False, **kwargs) -> Eva:
    """Rotary positions, register tokens and layer scale, like DINOv3."""
    rope = {"rope_type": "dinov3", "rope_rotate_half": True, "use_rot_pos_emb": True, "use_abs_pos_emb": False}
    sizes = {"patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_reg_tokens": 4, "init_values": 1e-5}
    return _create_eva("tiny_dinov3", img_size=96, dynamic_img_size=True, qkv_bias=False, **rope, **sizes, **kwargs)


def visual_of(name: str) -> nn.Module:
    """The tower in evaluation mode; its norms hide nothing."""
    visual = build_visual(name=name, quick_gelu=not name.startswith("timm:")).eval()
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # the last norm of a block starts at zero and would hide it
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return visual
