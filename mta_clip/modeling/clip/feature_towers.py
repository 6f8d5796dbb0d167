"""Adapters that read four feature maps, at strides 4, 8, 16 and 32, from open_clip's kinds of image towers.

Shapes: B images, H and W = input (multiples of 32), c2..c5 channels of the maps, p patch side, G = grid of tokens,
C token width.

Each adapter keeps the tower as `visual`, under open_clip's parameter names, without what the maps do not need (pooling,
projection, blocks after the last map): every parameter that is left takes part in some map.
"""

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

STRIDES = (4, 8, 16, 32)


class FeatureTower(nn.Module):
    """Base: a module from images to four maps.

    Attributes:
        channels: c2..c5.
    """

    channels: tuple[int, int, int, int]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, c, H / s, W / s) for s = 4, 8, 16, 32 of normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """What belongs to the stem and to each of the four maps, in this order: what FREEZE_AT counts."""
        raise NotImplementedError


class ResNetTower(FeatureTower):
    """CLIP's ModifiedResNet: three-convolution stem, anti-aliased strides; without its attention pool.

    At inference the first convolution is float32 also inside autocast: bfloat16 has fewer bits than a normalised pixel
    needs, and most of what it costs in mIoU is lost there.
    """

    def __init__(self, visual: ModifiedResNet):
        super().__init__()
        visual.attnpool = None
        self.visual = visual
        self.channels = tuple(layer[-1].conv3.out_channels for layer in self._layers())

    def forward(self, images: Tensor) -> list[Tensor]:
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

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        visual = self.visual
        stem = [visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3]
        return [stem, *([layer] for layer in self._layers())]

    def _layers(self) -> list[nn.Sequential]:
        return [self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4]


class ScaleNeck(nn.ModuleList):
    """Brings four token maps of one stride to strides 4, 8, 16, 32 (DenseCLIP's ViT, four levels from one).

    Every level starts with GroupNorm(1). From stride 16: two 2x2 stride-2 deconvolutions with a norm and GELU between,
    one deconvolution, nothing, a 2x2 max-pool. Other token strides shift the same ladder.

    Args:
        width: C, kept by all levels.
        stride: of the token maps in pixels, a power of two from 4 to 32.
    """

    def __init__(self, *, width: int, stride: int):
        super().__init__(self._level(width, round(math.log2(stride / target))) for target in STRIDES)

    @staticmethod
    def _level(width: int, doublings: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.GroupNorm(1, width)]
        for i in range(doublings):
            if i > 0:
                layers += [nn.GroupNorm(1, width), nn.GELU()]
            layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
        if doublings < 0:
            layers.append(nn.MaxPool2d(2**-doublings))
        return nn.Sequential(*layers)

    def forward(self, maps: Iterable[Tensor]) -> list[Tensor]:
        return [level(features) for level, features in zip(self, maps, strict=True)]


class TokenTower(FeatureTower):
    """What plain transformers share: taps after four blocks, a neck, images scaled so that patches fit the strides.

    A patch side that is no power of two cannot tile strides 4 to 32. So the image is first scaled by p over the next
    power of two (14/16): a token then covers exactly that many pixels of the original.

    Args:
        depth: number of blocks of the tower.
        width: C.
        patch_size: p.
        taps: 0-based blocks whose outputs become strides 4, 8, 16, 32, in ascending order; empty for the ends of the
            quarters of the depth.

    Raises:
        ValueError: taps that are not four ascending blocks of this tower, or a patch side above 32.
    """

    def __init__(self, *, depth: int, width: int, patch_size: int, taps: Sequence[int]):
        super().__init__()
        self.taps = list(taps) or [math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)]
        ascending = all(low <= high for low, high in zip(self.taps, self.taps[1:], strict=False))
        if len(self.taps) != 4 or not ascending or min(self.taps) < 0 or max(self.taps) >= depth:
            raise ValueError(
                f"MODEL.CLIP.VIT_FEATURE_BLOCKS {list(taps)}: expected four ascending blocks between 0 and "
                f"{depth - 1}, as the tower has {depth}, or [] for the ends of its quarters"
            )
        self.patch_size = patch_size
        self.token_stride = 2 ** max(2, math.ceil(math.log2(patch_size)))
        if self.token_stride > STRIDES[-1]:
            raise ValueError(f"a tower with patches of {patch_size} pixels has no map at stride {STRIDES[-1]}")
        self.channels = (width,) * 4
        self.neck = ScaleNeck(width=width, stride=self.token_stride)

    def fit_to_patches(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) scaled to (B, 3, G_h * p, G_w * p), G = sides over the token stride."""
        if self.token_stride == self.patch_size:
            return images
        size = [side // self.token_stride * self.patch_size for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


class ViTTower(TokenTower):
    """open_clip's VisionTransformer; its position embedding is interpolated to the grid of any input."""

    def __init__(self, visual: VisionTransformer, taps: Sequence[int]):
        blocks = visual.transformer.resblocks
        super().__init__(
            depth=len(blocks), width=visual.conv1.out_channels, patch_size=visual.conv1.kernel_size[0], taps=taps
        )
        visual.transformer.resblocks = blocks[: self.taps[-1] + 1]
        visual.ln_post = visual.proj = visual.attn_pool = visual.attn_pool_contrastive = None
        self.visual = visual

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.neck(self.token_maps(images))

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the tapped blocks (B, C, G_h, G_w), without the class token."""
        visual = self.visual
        patches = visual.conv1(self.fit_to_patches(images))
        grid = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        start = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        positions = resize_positions(visual.positional_embedding, visual.grid_size, grid)
        tokens = torch.cat([start, tokens], dim=1) + positions.to(tokens.dtype)
        tokens = visual.ln_pre(visual.patch_dropout(tokens))
        outputs = []
        for block in visual.transformer.resblocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [outputs[tap][:, 1:].transpose(1, 2).unflatten(2, grid) for tap in self.taps]

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        visual = self.visual
        stem = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
        return [stem, *_blocks_by_tap(visual.transformer.resblocks, self.taps)]


class TimmViTTower(TokenTower):
    """A plain ViT or EVA of timm (SigLIP, EVA-CLIP, PE); timm resizes its position embedding, bicubically."""

    def __init__(self, trunk: nn.Module, taps: Sequence[int]):
        super().__init__(
            depth=len(trunk.blocks), width=trunk.embed_dim, patch_size=trunk.patch_embed.patch_size[0], taps=taps
        )
        trunk.prune_intermediate_layers(self.taps, prune_norm=True, prune_head=True)
        # What timm's argument dynamic_img_size does at construction, which open_clip does not pass on.
        trunk.dynamic_img_size = True
        trunk.patch_embed.strict_img_size = trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = type(trunk.patch_embed.output_fmt).NHWC
        self.visual = trunk

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.neck(self.token_maps(images))

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the tapped blocks (B, C, G_h, G_w), without prefix tokens."""
        images = self.fit_to_patches(images)
        if getattr(self.visual, "rope", None) is not None:  # EVA's rotary embedding is made for one grid at a time
            self.visual.rope.update_feat_shape([side // self.patch_size for side in images.shape[-2:]])
        taps = self.visual.forward_intermediates(images, indices=self.taps, norm=False, intermediates_only=True)
        by_block = dict(zip(sorted(set(self.taps)), taps, strict=True))  # timm gives a block that is tapped twice once
        return [by_block[tap] for tap in self.taps]

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        return _with_rest_as_stem(self.visual, _blocks_by_tap(self.visual.blocks, self.taps))


class TimmPyramidTower(FeatureTower):
    """A hierarchical tower of timm (ConvNeXt, FastViT, ...) that has maps at strides 4, 8, 16 and 32 itself."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        levels = {info["reduction"]: (i, info["num_chs"]) for i, info in enumerate(trunk.feature_info)}
        self.indices, self.channels = zip(*(levels[stride] for stride in STRIDES), strict=True)
        trunk.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        self.visual = trunk

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.visual.forward_intermediates(
            images, indices=list(self.indices), norm=False, intermediates_only=True
        )

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        levels = [[self.visual.get_submodule(self.visual.feature_info[i]["module"])] for i in self.indices]
        return _with_rest_as_stem(self.visual, levels)


def build_feature_tower(visual: nn.Module, taps: Sequence[int]) -> FeatureTower:
    """The adapter for an open_clip image tower, which it takes over and prunes.

    Args:
        taps: blocks read from plain transformers, see `TokenTower`; unused by the others.

    Raises:
        ValueError: a tower of another kind.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer):
        return ViTTower(visual, taps)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "forward_intermediates"):
        trunk = visual.trunk
        patch_embed = getattr(trunk, "patch_embed", None)
        if isinstance(trunk, (timm.models.VisionTransformer, timm.models.Eva)) and type(patch_embed) is PatchEmbed:
            return TimmViTTower(trunk, taps)
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
        positions: (1 + source_h * source_w, C), the first row for the class token, which is kept.
        source: rows and columns of the grid that the table has.
        target: rows and columns wanted.

    Returns:
        (1 + target_h * target_w, C); `positions` itself if the grids agree.

    Raises:
        ValueError: the table does not have as many rows as `source` says.
    """
    if positions.shape[0] != 1 + source[0] * source[1]:
        raise ValueError(f"a position table of {positions.shape[0]} rows is no class token and a {source} grid")
    if tuple(source) == tuple(target):
        return positions
    grid = positions[1:].T.unflatten(1, tuple(source))[None]
    grid = F.interpolate(grid, size=tuple(target), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def _blocks_by_tap(blocks: Sequence[nn.Module], taps: Sequence[int]) -> list[list[nn.Module]]:
    """Blocks grouped by the map they lead to: those up to the first tap, those up to the second, ..."""
    starts = [0, *(tap + 1 for tap in taps[:-1])]
    return [list(blocks[start : tap + 1]) for start, tap in zip(starts, taps, strict=True)]


def _with_rest_as_stem(visual: nn.Module, levels: list[list[nn.Module]]) -> list[list[nn.Module | nn.Parameter]]:
    """The levels, preceded by everything that belongs to none of them."""
    in_levels = {id(module) for level in levels for root in level for module in root.modules()}
    stem = [module for module in visual.modules() if id(module) not in in_levels and not list(module.children())]
    own = [
        parameter
        for module in visual.modules()
        for parameter in module.parameters(recurse=False)
        if list(module.children())
    ]
    return [[*stem, *own], *levels]
