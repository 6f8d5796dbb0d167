"""timm's hierarchical models: ConvNeXt, ResNet, EfficientNet, RegNet, FastViT, ...

Shapes: B images, H and W = padded input (multiples of 32), c channels of a map, s its stride.
"""

import itertools

import torch
from timm.models import SwinTransformer
from torch import Tensor, nn

from .registry import IMAGE_TOWERS, STRIDES, FeatureTower


@IMAGE_TOWERS.register()
class TimmPyramidTower(FeatureTower):
    """A model of timm with maps at strides 4, 8, 16 and 32; it is changed in place.

    Raises:
        ValueError: the model accepts images of one size only, or is not a sequence of stages (HRNet).
    """

    kind = "timm's stages"

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """See FeatureTower."""
        strides = {info["reduction"] for info in getattr(visual, "feature_info", ())}
        return (
            set(STRIDES) <= strides
            and hasattr(visual, "forward_intermediates")
            and not isinstance(visual, SwinTransformer)
        )

    def __init__(self, trunk: nn.Module):
        super().__init__()
        levels = {info["reduction"]: (i, info["num_chs"]) for i, info in enumerate(trunk.feature_info)}
        self.indices, self.channels = zip(*(levels[stride] for stride in STRIDES), strict=True)
        trunk.prune_intermediate_layers(list(self.indices), prune_norm=True, prune_head=True)
        self.visual = trunk
        self._check()

    def forward(self, images: Tensor) -> list[Tensor]:
        """See FeatureTower."""
        return self.visual.forward_intermediates(
            images, indices=list(self.indices), norm=False, intermediates_only=True
        )

    def levels(self) -> list[list[nn.Module]]:
        """See FeatureTower. A level also has the modules between that of the map before and its own."""
        names = [self.visual.feature_info[i]["module"] for i in self.indices]
        levels = [[self.visual.get_submodule(names[0])]]
        for before, name in itertools.pairwise(names):
            (parent, _, first), (own_parent, _, last) = before.rpartition("."), name.rpartition(".")
            siblings = dict(self.visual.get_submodule(own_parent).named_children())
            keys = list(siblings)
            start = keys.index(first) + 1 if parent == own_parent else keys.index(last)
            levels.append([siblings[key] for key in keys[start : keys.index(last) + 1]])
        return levels

    @torch.no_grad()
    def _check(self) -> None:
        """Runs the model on an image of an unusual size; models with position tables of one size fail."""
        was_training, (height, width) = self.visual.training, (64, 96)
        image = torch.zeros(1, 3, height, width, device=next(self.visual.parameters()).device)
        try:
            self.visual.eval()
            shapes = [features.shape[1:] for features in self(image)]
            self.levels()
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"image tower {type(self.visual).__name__} is not supported: it does not run on images of any size, or "
                f"is not a sequence of stages ({error}). Choose another MODEL.CLIP.IMAGE_NAME (or MODEL.CLIP.NAME)"
            ) from error
        finally:
            self.visual.train(was_training)
        expected = [(c, height // s, width // s) for c, s in zip(self.channels, STRIDES, strict=True)]
        if [tuple(shape) for shape in shapes] != expected:
            raise ValueError(
                f"image tower {type(self.visual).__name__} gives maps {shapes} of an image of {height}x{width} pixels, "
                f"expected {expected}. Choose another MODEL.CLIP.IMAGE_NAME (or MODEL.CLIP.NAME)"
            )
