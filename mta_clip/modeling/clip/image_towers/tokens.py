"""What plain transformers have in common: maps of one stride, from blocks all along the depth, resized to four strides.

Shapes: B images, H and W = padded input (multiples of 32), s stride of a map, E token width, h and w = patch grid.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..batch_norm import SyncBatchNorm2d
from .registry import STRIDES, FeatureTower

logger = logging.getLogger(__name__)

NECK_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "GN": lambda width: nn.GroupNorm(1, width),
    "SyncBN": SyncBatchNorm2d,
}


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
                f"a tower with patches of {patch_size} pixels has no map at stride {STRIDES[-1]}; set "
                "MODEL.CLIP.IMAGE_NAME to one with smaller patches"
            )
        self.channels = (width,) * 4
        self.neck = ScaleNeck(width=width, stride=self.token_stride, norm=neck_norm)

    @classmethod
    def wrap(cls, visual: nn.Module, taps: Sequence[int], neck_norm: str) -> "TokenTower":
        """See FeatureTower."""
        return cls(visual, taps, neck_norm)  # type: ignore[call-arg, arg-type]  # as subclasses take them

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        return self.neck(self.token_maps(images))

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, E, h, w) of the tapped blocks, without prefix tokens, from images (B, 3, H, W)."""
        raise NotImplementedError

    def fit_to_patches(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) scaled to (B, 3, h * patch_size, w * patch_size); h, w = H, W over the token stride."""
        if self.token_stride == self.patch_size:
            return images
        size = [side // self.token_stride * self.patch_size for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def blocks_by_tap(blocks: Sequence[nn.Module], taps: Sequence[int]) -> list[list[nn.Module]]:
    """Blocks grouped by the map they lead to: those up to the first tap, those up to the second tap, and so on."""
    starts = [0, *(tap + 1 for tap in taps[:-1])]
    return [list(blocks[start : tap + 1]) for start, tap in zip(starts, taps, strict=True)]
