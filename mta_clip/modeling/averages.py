"""Averages over the processes of a distributed training, by which losses are normalised."""

import torch.distributed
from detectron2.utils import comm
from torch import Tensor


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over processes of float32 copies of values of any shape; with one process the copies."""
    values = values.float().clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
        values = values / comm.get_world_size()
    return values
