"""What a model that is trained no further can do once, instead of at every image; its output changes by rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..transformer_decoder.layers import MultiheadAttention
from .fold_batch_norm import fold_batch_norms

_LARGEST_HEAP_BLOCK = (32 << 20) - (1 << 16)  # bytes; glibc takes larger ones from the system in any case
_PRODUCTS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, MultiheadAttention)


def prepare_for_inference(model: nn.Module) -> nn.Module:
    """Folds BatchNorms, and stores weights in the precision of inference (TEST.PRECISION), in place.

    Networks that are compiled (MODEL.COMPILE) are compiled by Inductor, whatever it was before, with their weights as
    constants and anew for every image size.

    Args:
        model: a meta-architecture in evaluation mode, with its final weights; returned.

    Raises:
        ValueError: the model is in training mode.
    """
    fold_batch_norms(model)
    dtype = getattr(model, "inference_dtype", torch.float32)  # other meta-architectures have no such setting
    if dtype != torch.float32:
        for module in model.autocast_modules():
            cast_weights(module, dtype)
    for module in model.modules():
        if module._compiled_call_impl is not None:
            module.compile(dynamic=False)  # Inductor cannot freeze graphs for any size
            module._compiled_call_impl = _with_constant_weights(module._compiled_call_impl)
    _keep_freed_memory()
    return model


def _with_constant_weights(compiled: Callable) -> Callable:
    """Inductor's "freezing": weights are stored as oneDNN wants them, and ReLUs and sums join the convolutions.

    Set for these calls only: a model that goes on training would be evaluated with weights of the past.
    """
    from torch._inductor import config  # slow to import

    def call(*args: Any, **kwargs: Any) -> Any:
        with config.patch(freezing=True):
            return compiled(*args, **kwargs)

    return call


def _keep_freed_memory() -> None:
    """Makes glibc keep up to 64 MiB of freed memory, which it would give back and clear anew for every image.

    Its thresholds follow the largest block that was freed (mallopt(3), M_MMAP_THRESHOLD); other allocators ignore this.
    """
    torch.empty(_LARGEST_HEAP_BLOCK, dtype=torch.uint8)


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights of linear layers, convolutions and attention, as autocast would at every call.

    Matrices then lie input-major in memory, which spares CPUs a transposition at every product.

    Args:
        module: from now on it needs to run inside autocast to `dtype`, but for parts whose attribute `full_precision`
            says that they leave it.
        dtype: of the weights.
    """
    if getattr(module, "full_precision", False):
        return
    if isinstance(module, _PRODUCTS):
        for parameter in module.parameters(recurse=False):
            weight = parameter.data.to(dtype)
            parameter.data = weight.t().contiguous().t() if weight.dim() == 2 else weight
    for child in module.children():
        cast_weights(child, dtype)
