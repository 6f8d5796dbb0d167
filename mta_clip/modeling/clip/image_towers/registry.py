"""What every kind of image tower has in common, and the choice of the kind that fits a tower.

Shapes: B images, H and W = padded input (multiples of 32), c channels of a map, s its stride.
"""

from collections.abc import Sequence

from fvcore.common.registry import Registry
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)

IMAGE_TOWERS = Registry("IMAGE_TOWERS")  # kinds of towers, subclasses of FeatureTower; no tower is of two kinds


class FeatureTower(nn.Module):
    """Base class: turns images into four maps; a subclass sets `visual`, the tower, and `channels`, c of each map.

    Each adapter keeps the tower as `visual`, with its parameter names, and removes the parts that the maps do not need:
    pooling, projection and blocks after the last map. Every remaining parameter contributes to a map.
    """

    kind: str  # what it is, in words, for lists
    visual: nn.Module
    channels: tuple[int, int, int, int]

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """Whether a tower of open_clip, or the timm model in one, is of this kind."""
        raise NotImplementedError

    @classmethod
    def wrap(cls, visual: nn.Module, taps: Sequence[int], neck_norm: str) -> "FeatureTower":
        """Builds the adapter; towers that have maps at these strides ignore the arguments of TokenTower."""
        return cls(visual)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, c, H / s, W / s) with s = 4, 8, 16, 32, from normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def levels(self) -> list[list[nn.Module]]:
        """For each map, the modules that lead to it from the map before; the stem leads to the first ones."""
        raise NotImplementedError

    def stages(self) -> list[Sequence[nn.Module | nn.Parameter]]:
        """Modules and parameters of the stem and of each of the four maps: the stages that FREEZE_AT counts."""
        levels = self.levels()
        in_levels = {id(module) for level in levels for root in level for module in root.modules()}
        stem: list[nn.Module | nn.Parameter] = []
        for module in self.visual.modules():
            if id(module) not in in_levels:
                # timm's BatchNormAct2d is one module, although its activation is a child
                has_parts = any(list(child.parameters()) for child in module.children())
                stem += module.parameters(recurse=False) if has_parts else [module]
        return [stem, *levels]


def build_feature_tower(visual: nn.Module, taps: Sequence[int] = (), neck_norm: str = "GN") -> FeatureTower:
    """The adapter for an image tower, which it changes in place.

    Args:
        visual: image tower of open_clip, or a timm model.
        taps: of plain transformers, see TokenTower; other towers ignore it.
        neck_norm: likewise.

    Raises:
        ValueError: the tower is of a kind without adapter; see also TokenTower.
    """
    visual = visual.trunk if isinstance(visual, TimmModel) else visual
    for _, kind in IMAGE_TOWERS:
        if kind.accepts(visual):
            return kind.wrap(visual, taps, neck_norm)
    raise ValueError(
        f"image tower {type(visual).__name__} is not supported: it is neither CLIP's ResNet, a plain ViT of open_clip "
        "or timm, a Swin Transformer, nor a timm model with maps at strides 4, 8, 16 and 32 for images of any size. "
        "Choose another MODEL.CLIP.IMAGE_NAME (or MODEL.CLIP.NAME)"
    )
