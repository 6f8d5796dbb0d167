"""What a model that is trained no further can do once, instead of at every image; its output changes by rounding."""

import torch
from torch import nn

from ..transformer_decoder.layers import MultiheadAttention
from .fold_batch_norm import fold_batch_norms

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, MultiheadAttention)


def prepare_for_inference(model: nn.Module) -> nn.Module:
    """Folds BatchNorms, and stores weights in the precision of inference (TEST.PRECISION), in place.

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
    return model


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights of linear layers, convolutions and attention, as autocast would at every call.

    Args:
        module: from now on it needs to run inside autocast to `dtype`, but for parts whose attribute `full_precision`
            says that they leave it.
        dtype: of the weights.
    """
    if getattr(module, "full_precision", False):
        return
    if isinstance(module, _PRODUCTS):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    for child in module.children():
        cast_weights(child, dtype)
