"""BatchNorm folded into the convolutions before it, for models that are trained no further.

With stored statistics BatchNorm is a scale and a shift per channel, which the convolution's weights can hold: one pass
over each map less.
"""

from collections.abc import Iterator
from itertools import pairwise

import detectron2.layers
import torch
from open_clip.modified_resnet import Bottleneck, ModifiedResNet
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Folds the BatchNorms of Detectron2's and CLIP's ResNets, in place; other towers stay as they are.

    Args:
        model: in evaluation mode, with its final weights; returned.

    Raises:
        ValueError: the model is in training mode, where BatchNorm uses the statistics of a batch.
    """
    if model.training:
        raise ValueError("BatchNorm can only be folded at inference: call model.eval() before")
    for module in list(model.modules()):
        for conv, owner, name in _pairs(module):
            norm = getattr(owner, name)
            if isinstance(norm, nn.BatchNorm2d | detectron2.layers.FrozenBatchNorm2d):
                _fold(conv, norm)
                setattr(owner, name, None if conv is owner else nn.Identity())
    return model


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.Module, str]]:
    """Convolutions of a module, each with the owner and the name of the norm that directly follows it."""
    if isinstance(module, detectron2.layers.Conv2d):
        yield module, module, "norm"
    elif isinstance(module, ModifiedResNet | Bottleneck):
        for i in (1, 2, 3):
            yield getattr(module, f"conv{i}"), module, f"bn{i}"
    elif isinstance(module, nn.Sequential):
        for (_, conv), (name, _) in pairwise(module.named_children()):
            if type(conv) is nn.Conv2d:
                yield conv, module, name


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
