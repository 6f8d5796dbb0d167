"""timm's plain transformers.

Shapes: B images, H and W = padded input (multiples of 32), E token width, h and w = patch grid.
"""

from collections.abc import Sequence
from typing import Any

from timm.layers import HybridEmbed, PatchEmbed
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from .registry import IMAGE_TOWERS
from .tokens import TokenTower, blocks_by_tap


@IMAGE_TOWERS.register()
class TimmViTTower(TokenTower):
    """A ViT or EVA of timm (SigLIP, EVA-CLIP, PE, DINOv2, DINOv3); timm resizes its position embedding bicubically.

    The patches may be embedded by a CNN (MobileCLIP-B, ViTamin), whose stride is then the side of a patch. `trunk` is
    changed in place; for `taps`, `neck_norm` and the ValueError see TokenTower.
    """

    kind = "timm's ViT"

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """See FeatureTower."""
        return isinstance(visual, (VisionTransformer, Eva)) and type(visual.patch_embed) in (PatchEmbed, HybridEmbed)

    def __init__(self, trunk: Any, taps: Sequence[int], neck_norm: str = "GN"):
        super().__init__(
            depth=len(trunk.blocks),
            width=trunk.embed_dim,
            patch_size=trunk.patch_embed.feat_ratio(),
            taps=taps,
            neck_norm=neck_norm,
        )
        trunk.prune_intermediate_layers(self.taps, prune_norm=True, prune_head=True)
        # Same effect as timm's constructor argument dynamic_img_size, which open_clip does not pass on.
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = type(trunk.patch_embed.output_fmt).NHWC
        self.visual = trunk

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """See TokenTower."""
        images = self.fit_to_patches(images)
        if getattr(self.visual, "rope", None) is not None:  # EVA's rotary embedding is computed for one grid at a time
            self.visual.rope.update_feat_shape([side // self.patch_size for side in images.shape[-2:]])
        taps = self.visual.forward_intermediates(images, indices=self.taps, norm=False, intermediates_only=True)
        # timm returns a block only once, even if it is tapped twice
        by_block = dict(zip(sorted(set(self.taps)), taps, strict=True))
        return [by_block[tap] for tap in self.taps]

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return blocks_by_tap(self.visual.blocks, self.taps)
