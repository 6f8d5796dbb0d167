"""Adapters that read four feature maps, at strides 4, 8, 16 and 32, from open_clip's kinds of image towers.

Shapes: B images, H and W = padded input (multiples of 32), c channels of a map, s its stride, E token width, h and w =
patch grid of a transformer.

Each adapter keeps the tower as `visual`, with open_clip's parameter names, and removes the parts that the maps do not
need: pooling, projection and blocks after the last map. Every remaining parameter contributes to a map.
"""

import logging
import math
from collections.abc import Iterable, Sequence

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from .batch_norm import SyncBatchNorm2d

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
NECK_NORMS = {"GN": lambda width: nn.GroupNorm(1, width), "SyncBN": SyncBatchNorm2d}


class FeatureTower(nn.Module):
    """Base class: turns images into four maps; a subclass sets `visual`, the tower, and `channels`, c of each map."""

    visual: nn.Module
    channels: tuple[int, int, int, int]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, c, H / s, W / s) with s = 4, 8, 16, 32, from normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def levels(self) -> list[list[nn.Module]]:
        """For each map, the modules that lead to it from the map before; the stem leads to the first ones."""
        raise NotImplementedError

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Modules and parameters of the stem and of each of the four maps: the stages that FREEZE_AT counts."""
        levels = self.levels()
        in_levels = {id(module) for level in levels for root in level for module in root.modules()}
        stem = []
        for module in self.visual.modules():
            if id(module) not in in_levels:
                stem += module.parameters(recurse=False) if list(module.children()) else [module]
        return [stem, *levels]


class ResNetTower(FeatureTower):
    """CLIP's ModifiedResNet (three-convolution stem, anti-aliased strides) without its attention pool.

    At inference the first convolution runs in float32 even inside autocast: bfloat16 has fewer bits than a normalised
    pixel needs, and most of the mIoU that bfloat16 costs is lost there.
    """

    def __init__(self, visual: ModifiedResNet):
        super().__init__()
        visual.attnpool = None
        self.visual = visual
        self.channels = tuple(layer[-1].conv3.out_channels for layer in self._layers())

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        features, maps = self._stem(images), []
        for layer in self._layers():
            features = layer(features)
            maps.append(features)
        return maps

    def _stem(self, images: Tensor) -> Tensor:
        visual = self.visual
        if self.training:
            return visual.stem(images)
        with torch.autocast(images.device.type, enabled=False):
            features = visual.act1(visual.bn1(visual.conv1(images)))
        features = visual.act2(visual.bn2(visual.conv2(features)))
        features = visual.act3(visual.bn3(visual.conv3(features)))
        return visual.avgpool(features)

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return [[layer] for layer in self._layers()]

    def _layers(self) -> list[nn.Sequential]:
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]


class ScaleNeck(nn.ModuleList):
    """Resizes four token maps of one stride to strides 4, 8, 16, 32 (as DenseCLIP does for ViTs).

    Every level starts with GroupNorm(1). From token stride 16, the levels then have: two 2x2 deconvolutions of stride 2
    with a norm and GELU in between; one deconvolution; nothing; a 2x2 max-pool. For other token strides the number of
    deconvolutions or poolings changes accordingly.

    Args:
        width: E, the channels of all levels.
        stride: stride of the token maps in pixels, a power of two from 4 to 32.
        norm: between two deconvolutions: `GN` (one group) or `SyncBN` (over all processes), as in DenseCLIP, MTA-CLIP.

    Raises:
        ValueError: unknown `norm`.
    """

    def __init__(self, *, width: int, stride: int, norm: str = "GN"):
        if norm not in NECK_NORMS:
            raise ValueError(f"MODEL.CLIP.VIT_NECK_NORM is {norm!r}, expected one of {', '.join(NECK_NORMS)}")
        super().__init__(self._level(width, round(math.log2(stride / target)), norm) for target in STRIDES)

    @staticmethod
    def _level(width: int, doublings: int, norm: str) -> nn.Sequential:
        layers: list[nn.Module] = [nn.GroupNorm(1, width)]
        for i in range(doublings):
            if i > 0:
                layers += [NECK_NORMS[norm](width), nn.GELU()]
            layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
        if doublings < 0:
            layers.append(nn.MaxPool2d(2**-doublings))
        return nn.Sequential(*layers)

    def forward(self, maps: Iterable[Tensor]) -> list[Tensor]:
        """Maps (B, E, H / s, W / s) from four token maps (B, E, h, w)."""
        return [level(features) for level, features in zip(self, maps, strict=True)]


class TokenTower(FeatureTower):
    """Base class of plain transformers: reads four blocks, resizes their maps and scales images to fit the patches.

    Patches whose side is not a power of two do not fit strides 4 to 32. The image is then scaled by the patch side over
    the next power of two (such as 14 / 16), so that a token covers a power of two of original pixels.

    Args:
        depth: number of blocks of the tower.
        width: E.
        patch_size: side of a patch in pixels, at most 32.
        taps: indices, from 0, of the blocks whose outputs give strides 4, 8, 16, 32, in ascending order; empty for the
            last block of each quarter of the depth. Blocks after the last one are dropped, with a warning.
        neck_norm: see ScaleNeck.

    Raises:
        ValueError: `taps` are not four ascending blocks of this tower, a patch side is above 32, or see ScaleNeck.
    """

    def __init__(self, *, depth: int, width: int, patch_size: int, taps: Sequence[int], neck_norm: str = "GN"):
        super().__init__()
        self.taps = list(taps) or [math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)]
        ascending = all(low <= high for low, high in zip(self.taps, self.taps[1:], strict=False))
        if len(self.taps) != 4 or not ascending or min(self.taps) < 0 or max(self.taps) >= depth:
            raise ValueError(
                f"MODEL.CLIP.VIT_FEATURE_BLOCKS {list(taps)}: expected four ascending blocks between 0 and "
                f"{depth - 1}, as the tower has {depth}, or [] for the last block of each quarter"
            )
        if dropped := depth - 1 - self.taps[-1]:
            logger.warning(
                "MODEL.CLIP.VIT_FEATURE_BLOCKS %s drops the last %d of the tower's %d blocks; [] keeps them all and "
                "takes the last block of each quarter",
                self.taps,
                dropped,
                depth,
            )
        self.patch_size = patch_size
        self.token_stride = 2 ** max(2, math.ceil(math.log2(patch_size)))
        if self.token_stride > STRIDES[-1]:
            raise ValueError(
                f"a tower with patches of {patch_size} pixels has no map at stride {STRIDES[-1]}; set MODEL.CLIP.NAME "
                "to one with smaller patches"
            )
        self.channels = (width,) * 4
        self.neck = ScaleNeck(width=width, stride=self.token_stride, norm=neck_norm)

    def fit_to_patches(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) scaled to (B, 3, h * patch_size, w * patch_size); h, w = H, W over the token stride."""
        if self.token_stride == self.patch_size:
            return images
        size = [side // self.token_stride * self.patch_size for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


class ViTTower(TokenTower):
    """open_clip's VisionTransformer; its position embedding is interpolated to the patch grid of each input.

    `visual` is changed in place; for `taps`, `neck_norm` and the ValueError see TokenTower.
    """

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

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        return self.neck(self.token_maps(images))

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, E, h, w) of the tapped blocks, without the class token, from images (B, 3, H, W)."""
        visual = self.visual
        patches = visual.conv1(self.fit_to_patches(images))
        grid = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        start = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        positions = resize_positions(visual.positional_embedding, visual.grid_size, grid)
        tokens = torch.cat([start, tokens], dim=1) + positions.to(tokens.dtype)
        tokens = visual.ln_pre(visual.patch_dropout(tokens))
        outputs = []
        for block in visual.transformer.resblocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [outputs[tap][:, 1:].transpose(1, 2).unflatten(2, grid) for tap in self.taps]

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return _blocks_by_tap(self.visual.transformer.resblocks, self.taps)


class TimmViTTower(TokenTower):
    """A plain ViT or EVA of timm (SigLIP, EVA-CLIP, PE); timm resizes its position embedding bicubically.

    `trunk` is changed in place; for `taps`, `neck_norm` and the ValueError see TokenTower.
    """

    def __init__(self, trunk: nn.Module, taps: Sequence[int], neck_norm: str = "GN"):
        super().__init__(
            depth=len(trunk.blocks),
            width=trunk.embed_dim,
            patch_size=trunk.patch_embed.patch_size[0],
            taps=taps,
            neck_norm=neck_norm,
        )
        trunk.prune_intermediate_layers(self.taps, prune_norm=True, prune_head=True)
        # Same effect as timm's constructor argument dynamic_img_size, which open_clip does not pass on.
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = type(trunk.patch_embed.output_fmt).NHWC
        self.visual = trunk

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        return self.neck(self.token_maps(images))

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, E, h, w) of the tapped blocks, without prefix tokens, from images (B, 3, H, W)."""
        images = self.fit_to_patches(images)
        if getattr(self.visual, "rope", None) is not None:  # EVA's rotary embedding is computed for one grid at a time
            self.visual.rope.update_feat_shape([side // self.patch_size for side in images.shape[-2:]])
        taps = self.visual.forward_intermediates(images, indices=self.taps, norm=False, intermediates_only=True)
        # timm returns a block only once, even if it is tapped twice
        by_block = dict(zip(sorted(set(self.taps)), taps, strict=True))
        return [by_block[tap] for tap in self.taps]

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return _blocks_by_tap(self.visual.blocks, self.taps)


class TimmPyramidTower(FeatureTower):
    """A hierarchical tower of timm (ConvNeXt, ...) with maps at strides 4, 8, 16 and 32; it is changed in place."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        levels = {info["reduction"]: (i, info["num_chs"]) for i, info in enumerate(trunk.feature_info)}
        self.indices, self.channels = zip(*(levels[stride] for stride in STRIDES), strict=True)
        trunk.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        self.visual = trunk

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        return self.visual.forward_intermediates(
            images, indices=list(self.indices), norm=False, intermediates_only=True
        )

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower."""
        return [[self.visual.get_submodule(self.visual.feature_info[i]["module"])] for i in self.indices]


def build_feature_tower(visual: nn.Module, taps: Sequence[int], neck_norm: str = "GN") -> FeatureTower:
    """The adapter for an open_clip image tower, which it changes in place.

    Args:
        visual: image tower.
        taps, neck_norm: of plain transformers, see TokenTower; other towers ignore both.

    Raises:
        ValueError: the tower is of a kind without adapter; see also TokenTower.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer):
        return ViTTower(visual, taps, neck_norm)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "forward_intermediates"):
        trunk = visual.trunk
        patch_embed = getattr(trunk, "patch_embed", None)
        if isinstance(trunk, (timm.models.VisionTransformer, timm.models.Eva)) and type(patch_embed) is PatchEmbed:
            return TimmViTTower(trunk, taps, neck_norm)
        if patch_embed is None and set(STRIDES) <= {info["reduction"] for info in trunk.feature_info}:
            return TimmPyramidTower(trunk)
    kind = type(getattr(visual, "trunk", visual)).__name__
    raise ValueError(
        f"image tower {kind} is not supported: it is neither CLIP's ResNet, open_clip's or timm's plain ViT, nor a "
        "timm model with maps at strides 4, 8, 16 and 32 for images of any size. Choose another MODEL.CLIP.NAME"
    )


def resize_positions(positions: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of a ViT's position table, half-pixel centres, no antialiasing (DenseCLIP; TagCLIP).

    Args:
        positions: (1 + rows * columns of `source`, E); the first row belongs to the class token and is kept.
        source, target: rows and columns of the grid that the table is made for, and of the new grid (h, w).

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


def _blocks_by_tap(blocks: Sequence[nn.Module], taps: Sequence[int]) -> list[list[nn.Module]]:
    """Blocks grouped by the map they lead to: those up to the first tap, those up to the second tap, and so on."""
    starts = [0, *(tap + 1 for tap in taps[:-1])]
    return [list(blocks[start : tap + 1]) for start, tap in zip(starts, taps, strict=True)]
