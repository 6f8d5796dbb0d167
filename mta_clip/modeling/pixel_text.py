"""Pixel-text alignment: DenseCLIP's score maps (CVPR 2022, section 3.2), which MTA-CLIP's mask-text alignment replaces.

Shapes: B images, C classes, K = C + 1 (last = no object), Z contexts or templates, c channels of the encoder's coarsest
map, h and w = its size, H and W = padded images, Dt text width.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from .averages import mean_over_processes
from .clip.text_towers import text_dim
from .outputs import cosines


class PixelTextHead(nn.Module):
    """Compares each pixel of the encoder's coarsest map with the text of each class.

    The cosines join the map as C more channels, and cross-entropy trains them to be a segmentation. DenseCLIP takes its
    pixels through CLIP's attention pooling; a 1x1 convolution does it here, for any encoder. Its third part, text that
    looks at the image (context-aware prompting), is left out.

    Args:
        input_shape: channels and strides of the encoder's maps, by name.
        num_classes: C.
        text_dim: Dt.
        loss_weight: of the cross-entropy.
    """

    @configurable
    def __init__(
        self, *, input_shape: Mapping[str, ShapeSpec], num_classes: int, text_dim: int, loss_weight: float = 0.4
    ) -> None:
        super().__init__()
        self.feature = max(input_shape, key=lambda name: input_shape[name].stride)
        self.input_shape = dict(input_shape)
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.projection = nn.Conv2d(input_shape[self.feature].channels, text_dim, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Constructor arguments from a config.

        Raises:
            ValueError: the model has no text.
        """
        if not cfg.MODEL.PROMPT.NAME:
            raise ValueError(
                f"MODEL.MTA.PIXEL_TEXT_WEIGHT {cfg.MODEL.MTA.PIXEL_TEXT_WEIGHT} compares pixels with text, but "
                "MODEL.PROMPT.NAME is ''; choose a prompt learner, or set the weight to 0"
            )
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "text_dim": text_dim(cfg.MODEL.CLIP.TEXT_NAME or cfg.MODEL.CLIP.NAME),
            "loss_weight": cfg.MODEL.MTA.PIXEL_TEXT_WEIGHT,
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the maps that `forward` returns."""
        shape = self.input_shape[self.feature]
        wider = ShapeSpec(channels=shape.channels + self.num_classes, stride=shape.stride)
        return {**self.input_shape, self.feature: wider}

    def forward(self, features: Mapping[str, Tensor], text: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The maps, the coarsest with C more channels, and the cosines (B, C, h, w) in [-1, 1] that these are.

        Args:
            features: encoder maps by name; the coarsest is (B, c, h, w).
            text: (Z, K, Dt), or (Z, B, K, Dt) if it differs between images; cosines are averaged over Z.
        """
        coarsest = features[self.feature]
        pixels = self.projection(coarsest).flatten(2).transpose(1, 2)
        scores = cosines(pixels, text[..., :-1, :]).mean(0).transpose(1, 2).unflatten(2, coarsest.shape[2:])
        return {**features, self.feature: torch.cat([coarsest, scores], dim=1)}, scores

    def loss(
        self,
        scores: Tensor,
        labels: Tensor,
        temperature: float | Tensor,
        ignore_label: int,
        step_labels: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Weighted cross-entropy, a scalar: averaged over the labelled pixels of all processes, 0 if there are none.

        Args:
            scores: (B, C, h, w), from `forward`; they are resized to the labels.
            labels: (B, H, W) int64, best on the CPU.
            temperature: that cosines are divided by; 0.07 in DenseCLIP.
            ignore_label: value of pixels that do not count.
            step_labels: the label maps of all parts of a step, see `SegmentationModel.losses`.
        """
        maps = labels if step_labels is None else step_labels
        count = torch.stack([(x != ignore_label).sum() for x in maps]).sum() * (len(labels) / len(maps))
        labels, count = (x.to(scores.device, non_blocking=True) for x in (labels, count))
        logits = F.interpolate(scores.float() / temperature, labels.shape[1:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, labels, ignore_index=ignore_label, reduction="sum")
        return self.loss_weight * total / mean_over_processes(count).clamp(min=1.0)
