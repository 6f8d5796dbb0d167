"""An image tower of CLIP or timm as a Detectron2 backbone: features at strides 4, 8, 16 and 32.

Shapes: B images, H and W = a batch of images as it enters the encoder, c channels of a map, s its stride.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from .batch_norm import synchronize_batch_norm
from .image_towers import STRIDES, build_feature_tower
from .visual import build_visual, image_tower_settings, warn_of_other_pixels

NAMES = ("res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
class CLIPImageEncoder(Backbone):
    """An image tower of open_clip or timm, from the image to four feature maps; pooling and projection are left out.

    Args:
        name: as in `build_visual`.
        pretrained: as in `build_visual`.
        quick_gelu: as in `build_visual`.
        drop_path: as in `build_visual`.
        vit_feature_blocks: indices, from 0, of the blocks of a plain transformer that give strides 4, 8, 16, 32; [] for
            the last block of each quarter of its depth. DenseCLIP and MTA-CLIP use 3, 5, 7, 11 of 12. Other towers have
            maps at these strides already and ignore it, and the next.
        vit_neck_norm: `GN` or `SyncBN`, see `ScaleNeck`.
        bn_mode: `train` (statistics of the batch of each process, as in MTA-CLIP), `frozen` (stored statistics, no
            gradient) or `sync` (statistics over all processes).
        freeze_at: number of stages without gradient, counted from the stem: 0 none, 1 the stem, 2 also the stage of
            res2, ... 5 everything.

    Raises:
        ValueError: unknown `bn_mode`, or `freeze_at` outside 0..5; see also `build_visual` and `build_feature_tower`.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: str = "",
        quick_gelu: bool = False,
        drop_path: float = 0.0,
        vit_feature_blocks: Sequence[int] = (),
        vit_neck_norm: str = "GN",
        bn_mode: str = "train",
        freeze_at: int = 0,
    ):
        super().__init__()
        if bn_mode not in ("train", "frozen", "sync"):
            raise ValueError(f"MODEL.CLIP.BN_MODE is {bn_mode!r}, expected train, frozen or sync")
        if not 0 <= freeze_at <= 5:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, expected 0 (freeze nothing) to 5 (freeze everything)"
            )
        visual = build_visual(name=name, pretrained=pretrained, quick_gelu=quick_gelu, drop_path=drop_path)
        self.tower = build_feature_tower(visual, vit_feature_blocks, vit_neck_norm)
        if bn_mode == "sync":
            synchronize_batch_norm(self.tower)
        stages = self.tower.stages()
        for part in chain.from_iterable(stages[:freeze_at]):
            part.requires_grad_(False)
        frozen = stages if bn_mode == "frozen" else stages[:freeze_at]
        self._frozen_norms = [norm for part in chain.from_iterable(frozen) for norm in _batch_norms(part)]
        for norm in self._frozen_norms:
            norm.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """Constructor arguments from a config; `input_shape` is not used."""
        settings = image_tower_settings(cfg)
        warn_of_other_pixels(settings["name"], settings["pretrained"], cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        return {
            **settings,
            "drop_path": cfg.MODEL.CLIP.IMAGE_DROP_PATH,
            "vit_feature_blocks": cfg.MODEL.CLIP.VIT_FEATURE_BLOCKS,
            "vit_neck_norm": cfg.MODEL.CLIP.VIT_NECK_NORM,
            "bn_mode": cfg.MODEL.CLIP.BN_MODE,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        """See Backbone."""
        return STRIDES[-1]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See Backbone. Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(NAMES, self.tower.channels, STRIDES, strict=True)
        }

    def train(self, mode: bool = True) -> "CLIPImageEncoder":
        """See nn.Module. Frozen BatchNorm layers keep using their stored statistics."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the feature maps of a batch.

        Args:
            images: (B, 3, H, W), normalised. Sides that are not multiples of 32 are padded with zeros at the right and
                the bottom; the maps are cropped accordingly.

        Returns:
            "res2" to "res5": (B, c, ceil(H / s), ceil(W / s)) for the strides s = 4, 8, 16, 32.
        """
        height, width = images.shape[-2:]
        maps = self.tower(F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1])))
        return {
            name: features[..., : -(-height // stride), : -(-width // stride)]
            for name, features, stride in zip(NAMES, maps, STRIDES, strict=True)
        }


def _batch_norms(part: nn.Module | nn.Parameter) -> list[nn.Module]:
    """All BatchNorm layers in a part of a tower."""
    return [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)] if isinstance(part, nn.Module) else []
