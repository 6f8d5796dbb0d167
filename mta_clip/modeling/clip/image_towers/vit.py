"""open_clip's own ViTs.

Shapes: B images, H and W = padded input (multiples of 32), E token width, h and w = patch grid.
"""

from collections.abc import Sequence

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import IMAGE_TOWERS
from .tokens import TokenTower, blocks_by_tap


@IMAGE_TOWERS.register()
class ViTTower(TokenTower):
    """open_clip's VisionTransformer; its position embedding is interpolated to the patch grid of each input.

    `visual` is changed in place; for `taps`, `neck_norm` and the ValueError see TokenTower.
    """

    kind = "ViT"

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """See FeatureTower."""
        return isinstance(visual, VisionTransformer)

    def __init__(self, visual: VisionTransformer, taps: Sequence[int], neck_norm: str = "GN"):
        blocks = visual.transformer.resblocks
        super().__init__(
            depth=len(blocks),
            width=visual.conv1.out_channels,
            patch_size=visual.conv1.kernel_size[0],
            taps=taps,
            neck_norm=neck_norm,
        )
        visual.transformer.resblocks = blocks[: self.taps[-1] + 1]
        visual.ln_post = visual.proj = visual.attn_pool = visual.attn_pool_contrastive = None
        self.visual = visual

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """See TokenTower."""
        tokens, grid = embed_patches(self.visual, self.fit_to_patches(images))
        outputs = []
        for block in self.visual.transformer.resblocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [outputs[tap][:, 1:].transpose(1, 2).unflatten(2, grid) for tap in self.taps]

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return blocks_by_tap(self.visual.transformer.resblocks, self.taps)


def embed_patches(visual: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What enters the first block of open_clip's ViT, (B, 1 + h * w, E) with the class token first, and its (h, w).

    Args:
        images: (B, 3, H, W), whose sides are multiples of the patch size.
    """
    patches = visual.conv1(images)
    grid = patches.shape[-2:]
    tokens = patches.flatten(2).transpose(1, 2)
    start = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    positions = resize_positions(visual.positional_embedding, visual.grid_size, grid)
    tokens = torch.cat([start, tokens], dim=1) + positions.to(tokens.dtype)
    return visual.ln_pre(visual.patch_dropout(tokens)), grid


def resize_positions(positions: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of a ViT's position table, half-pixel centres, no antialiasing (DenseCLIP; TagCLIP).

    Args:
        positions: (1 + rows * columns of `source`, E); the first row belongs to the class token and is kept.
        source: rows and columns of the grid that the table is made for.
        target: those of the new grid, (h, w).

    Returns:
        (1 + h * w, E); `positions` itself if the grids are equal.

    Raises:
        ValueError: the number of rows of the table does not match `source`.
    """
    if positions.shape[0] != 1 + source[0] * source[1]:
        raise ValueError(
            f"a position table of {positions.shape[0]} rows does not fit a class token and a {tuple(source)} grid, "
            f"which need {1 + source[0] * source[1]}"
        )
    any_size = any(isinstance(side, torch.SymInt) for side in target)  # in a graph that is being exported
    if not any_size and tuple(source) == tuple(target):
        return positions
    grid = positions[1:].T.unflatten(1, tuple(source))[None]
    grid = F.interpolate(grid, size=tuple(target), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])
