"""CLIP's ResNets.

Shapes: B images, H and W = padded input (multiples of 32), c channels of a map, s its stride.
"""

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from .registry import IMAGE_TOWERS, FeatureTower


@IMAGE_TOWERS.register()
class ResNetTower(FeatureTower):
    """CLIP's ModifiedResNet (three-convolution stem, anti-aliased strides) without its attention pool.

    At inference the first convolution runs in float32 even inside autocast: bfloat16 has fewer bits than a normalised
    pixel needs, and most of the mIoU that bfloat16 costs is lost there.
    """

    kind = "CLIP's ResNet"

    @classmethod
    def accepts(cls, visual: nn.Module) -> bool:
        """See FeatureTower."""
        return isinstance(visual, ModifiedResNet)

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
