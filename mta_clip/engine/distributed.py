"""What processes exchange: gradients (DDP), buffers before an evaluation, the metrics of a step."""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# Newer versions of PyTorch warn of the old name.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"
_KEEP_BUFFERS: dict[str, Any] = {_BUFFERS: False}


def wrap_model(model: nn.Module, *, find_unused_parameters: bool = False) -> nn.Module:
    """The model in DistributedDataParallel if there is more than one process, else the model itself.

    As in detectron2, buffers are not broadcast at every step: frozen and synchronised BatchNorm do not need it.
    `broadcast_buffers` does it before an evaluation.

    Args:
        find_unused_parameters: allow steps that do not use every trainable parameter, at some cost in time.
    """
    if comm.get_world_size() == 1:
        return model
    # Without `device_ids`: with them it would move label maps to the GPU, but models read them on the CPU.
    return DistributedDataParallel(
        model,
        **_KEEP_BUFFERS,
        find_unused_parameters=find_unused_parameters,
    )


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process the buffers of process 0, which are the ones a checkpoint holds.

    BatchNorm in training mode keeps running statistics of the images of its own process only; without this call, an
    evaluation on several processes would mix different models.
    """
    if comm.get_world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def gather_rows(row: Tensor) -> Tensor:
    """Collects one row of numbers from every process, on every process.

    Args:
        row: (n,), with the same n and dtype in all processes.

    Returns:
        (processes, n), in the order of the processes' ranks.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(world_size)]
    dist.all_gather(rows, row)
    return torch.stack(rows)
