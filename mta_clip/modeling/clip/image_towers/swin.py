"""Swin Transformers (ICCV 2021) for dense prediction, as in Mask2Former: windows on maps of any size, a norm per map.

Shapes: B images, H and W = padded input (multiples of 32), c channels of a map, h and w = map of tokens, a = side of
a window in tokens.
"""

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import IMAGE_TOWERS, FeatureTower


@IMAGE_TOWERS.register()
class SwinTower(FeatureTower):
    """timm's Swin Transformer, changed in place, with a new LayerNorm on each map.

    timm fixes the shifted windows for one image size, and pads after shifting. Here maps of any size are padded to
    whole windows first and then shifted, as in the authors' code for detection and segmentation; where nothing is
    padded, both give the same.
    """

    kind = "Swin"

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """See FeatureTower."""
        return isinstance(visual, SwinTransformer)

    def __init__(self, visual: SwinTransformer):
        super().__init__()
        visual.prune_intermediate_layers(list(range(4)), prune_norm=True, prune_head=True)
        visual.patch_embed.strict_img_size = False
        for layer in visual.layers:
            for index, block in enumerate(layer.blocks):
                block.__class__ = _WindowBlock  # same parameters
                block.attn_mask = None  # timm's is for one size
                block.shift_size = tuple(side // 2 * (index % 2) for side in block.window_size)
        self.visual = visual
        self.channels = tuple(info["num_chs"] for info in visual.feature_info)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        tokens, maps = self.visual.patch_embed(images), []
        for layer, norm in zip(self.visual.layers, self.norms, strict=True):
            tokens = layer(tokens)
            maps.append(norm(tokens).permute(0, 3, 1, 2).contiguous())
        return maps

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return [[layer] for layer in self.visual.layers]


class _WindowBlock(SwinTransformerBlock):
    """timm's block, for a map of any size."""

    def _attn(self, x: Tensor) -> Tensor:
        """Attention within windows, (B, h, w, c) to the same shape."""
        height, width = x.shape[1:3]
        down, right = self.shift_size
        x = F.pad(x, (0, 0, 0, -width % self.window_size[1], 0, -height % self.window_size[0]))
        padded, mask = x.shape[1:3], None
        if down or right:
            x = torch.roll(x, (-down, -right), (1, 2))
            mask = self._mask(padded[0], padded[1], x.device)
        windows = self.attn(window_partition(x, self.window_size).flatten(1, 2), mask)
        x = window_reverse(windows.unflatten(1, self.window_size), self.window_size, *padded)
        if down or right:
            x = torch.roll(x, (down, right), (1, 2))
        return x[:, :height, :width]

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """(windows, a * a, a * a) float32: -100, as in the authors' code, between tokens that only the shift joined."""
        row, column = (
            (place >= side - window).long() + (place >= side - shift)
            for place, side, window, shift in zip(
                (torch.arange(height, device=device), torch.arange(width, device=device)),
                (height, width),
                self.window_size,
                self.shift_size,
                strict=True,
            )
        )
        regions = window_partition((3 * row[:, None] + column)[None, ..., None], self.window_size).flatten(1)
        return (regions[:, None] != regions[:, :, None]).float() * -100
