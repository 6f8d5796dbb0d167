"""BatchNorm over the batches of all processes, on any device.

torch's SyncBatchNorm works on GPUs only. Detectron2's alternative gives all processes the same weight even if their
batches differ in size, and stores a biased variance.

Shapes: B images, c channels, h and w = a feature map.
"""

import torch
import torch.distributed.nn
from detectron2.utils import comm
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with training statistics over the batches of all processes.

    The state dict is that of BatchNorm2d. Statistics are computed at least in float32, even inside autocast.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, c, h, w); B, h and w may differ between processes."""
        if not self.training or comm.get_world_size() == 1:
            return super().forward(input)
        values = input.float()
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])
        sums = torch.distributed.nn.functional.all_reduce(sums)  # differentiable
        count = sums[-1].detach()
        mean, mean_square = (sums[:-1] / count).chunk(2)
        variance = mean_square - mean.square()
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(input.dtype)


class SyncBatchNormAct2d(SyncBatchNorm2d, BatchNormAct2d):
    """timm's BatchNorm with dropout and activation, with training statistics over the batches of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, c, h, w), as SyncBatchNorm2d, and applies the activation."""
        features = super().forward(input)
        if not self.training or comm.get_world_size() == 1:
            return features  # by timm's own forward, with the activation
        return self.act(self.drop(features))


_SYNCHRONISED = {nn.BatchNorm2d: SyncBatchNorm2d, BatchNormAct2d: SyncBatchNormAct2d}


def synchronize_batch_norm(module: nn.Module) -> None:
    """Turns every BatchNorm2d, also timm's BatchNormAct2d, in a module into its synchronised form, in place.

    Raises:
        ValueError: a BatchNorm layer belongs to another subclass of BatchNorm2d, which may do more than BatchNorm.
    """
    for name, child in module.named_modules():
        if not isinstance(child, nn.BatchNorm2d) or isinstance(child, SyncBatchNorm2d):
            continue
        if type(child) not in _SYNCHRONISED:
            raise ValueError(
                f"MODEL.CLIP.BN_MODE sync: {name} is a {type(child).__name__}, not a plain BatchNorm2d; "
                "use train or frozen"
            )
        child.__class__ = _SYNCHRONISED[type(child)]  # same parameters, buffers and settings
