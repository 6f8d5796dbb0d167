"""Deformable sampling as Triton kernels for NVIDIA GPUs; Triton's interpreter (TRITON_INTERPRET=1) runs them on CPUs.

A program sums a block of bags: all weighted samples of a head of a query. Pixels are read where they are needed, again
in the backward pass, so that no sample is ever stored; gradients of pixels are added up atomically. All sums are
float32.

Shapes: as in sampling.py. A bag is one of B * N * A; its L * P samples lie next to each other, as do its d channels.
"""

import functools
import warnings
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024  # bags times channels of a program


def deformable_sampling(
    value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """`sampling.deformable_sampling`; differentiable once with respect to its four tensors.

    Gradients of `value` differ by rounding from run to run, as the order of their sums does.

    Raises:
        ValueError: the tensors are on no CUDA device.
        RuntimeError: in the backward pass, if `torch.use_deterministic_algorithms` is on.
    """
    if value.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"Triton needs a CUDA device, the tensors are on {value.device}: "
            "set MODEL.SEM_SEG_HEAD.SAMPLING auto, or MODEL.DEVICE cuda"
        )
    return _forward(value, x, y, weights, [side for size in sizes for side in size])


# The schemas are written out, as PyTorch 2.6 cannot infer them from `collections.abc`.
_INPUTS = "Tensor value, Tensor x, Tensor y, Tensor weights, int[] sizes"


@torch.library.custom_op("mta_clip::deformable_sampling", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _forward(value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    output = value.new_empty(*x.shape[:2], value.shape[2] * value.shape[3])
    _launch(_forward_kernel, value, x, y, weights, sizes, output)
    return output


@torch.library.custom_op(
    "mta_clip::deformable_sampling_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor, value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if torch.are_deterministic_algorithms_enabled():
        message = (
            "Triton's deformable sampling has no deterministic backward pass: MODEL.SEM_SEG_HEAD.SAMPLING auto has"
        )
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=2)
    gradients = (
        torch.zeros_like(value, dtype=torch.float32, memory_format=torch.contiguous_format),
        *map(_like, (x, y, weights)),
    )
    _launch(_backward_kernel, value, x, y, weights, sizes, grad.contiguous(), *gradients)
    grad_value, grad_x, grad_y, grad_weights = gradients
    return grad_value.to(value.dtype), grad_x, grad_y, grad_weights


@_forward.register_fake
def _(value, x, y, weights, sizes):
    return value.new_empty(*x.shape[:2], value.shape[2] * value.shape[3])


@_backward.register_fake
def _(grad, value, x, y, weights, sizes):
    return tuple(map(_like, (value, x, y, weights)))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.sizes), None


_forward.register_autograd(_gradients, setup_context=_save)


def _launch(
    kernel, value: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sequence[int], *others: Tensor
) -> None:
    (images, pixels, heads, channels), queries = value.shape, x.shape[1]
    bags, levels = images * queries * heads, len(sizes) // 2
    if not bags:
        return
    width = triton.next_power_of_2(channels)
    block = max(1, _TILE // width)
    with torch.cuda.device_of(value):
        kernel[(triton.cdiv(bags, block),)](
            *(tensor.contiguous() for tensor in (value, x, y, weights)),
            _level_table(tuple(sizes), value.device),
            *others,
            bags,
            pixels,
            queries * heads,
            HEADS=heads,
            CHANNELS=channels,
            LEVELS=levels,
            POINTS=x.shape[2] // (heads * levels),
            BLOCK=block,
            WIDTH=width,
        )


@functools.lru_cache(maxsize=64)  # once per size: a copy to the GPU waits for it
def _level_table(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width and first pixel of each level."""
    rows, start = [], 0
    for height, width in zip(sizes[::2], sizes[1::2], strict=True):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


@triton.jit
def _locate(coordinates, size):
    """The pixel before each coordinate, -1..size, and the share of the next one. Far outside is just outside."""
    clamped = tl.minimum(tl.maximum(coordinates, -1.0), size.to(tl.float32))
    first = tl.floor(clamped)
    return first.to(tl.int32), clamped - first


@triton.jit
def _offsets(origin, row, column, height, width, stride, channel):
    """Offsets (BLOCK, WIDTH) of the channels of one pixel per bag, and which pixels (BLOCK, 1) lie inside the map."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = origin + (row * width + column).to(tl.int64) * stride
    return pixel[:, None] + channel[None, :], inside[:, None]


@triton.jit
def _block_of_bags(
    bags, pixels, bags_per_image,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """This program's bags and channels, which of them exist, and each bag's head in the first pixel of level 0."""
    bag = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    real_bag = bag < bags
    real = real_bag[:, None] & (channel < CHANNELS)[None, :]
    return bag, channel, real_bag, real, (bag // bags_per_image) * pixels * HEADS + bag % HEADS


@triton.jit
def _forward_kernel(
    value, x, y, weights, levels, output, bags, pixels, bags_per_image,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    bag, channel, real_bag, real, head = _block_of_bags(bags, pixels, bags_per_image, HEADS, CHANNELS, BLOCK, WIDTH)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    for level in range(LEVELS):
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        origin = (head + tl.load(levels + 3 * level + 2) * HEADS) * CHANNELS
        for point in tl.static_range(POINTS):
            sample = (bag * LEVELS + level) * POINTS + point
            column, fx = _locate(tl.load(x + sample, mask=real_bag, other=0.0).to(tl.float32), width)
            row, fy = _locate(tl.load(y + sample, mask=real_bag, other=0.0).to(tl.float32), height)
            weight = tl.load(weights + sample, mask=real_bag, other=0.0).to(tl.float32)
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at, inside = _offsets(origin, row + below, column + right, height, width, HEADS * CHANNELS, channel)
                share = weight * (fy if below else 1 - fy) * (fx if right else 1 - fx)
                total += share[:, None] * tl.load(value + at, mask=real & inside, other=0.0).to(tl.float32)
    at = bag[:, None] * CHANNELS + channel[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=real)


@triton.jit
def _backward_kernel(
    value, x, y, weights, levels, grad, grad_value, grad_x, grad_y, grad_weights, bags, pixels, bags_per_image,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    bag, channel, real_bag, real, head = _block_of_bags(bags, pixels, bags_per_image, HEADS, CHANNELS, BLOCK, WIDTH)
    gradient = tl.load(grad + bag[:, None] * CHANNELS + channel[None, :], mask=real, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        height, width = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        origin = (head + tl.load(levels + 3 * level + 2) * HEADS) * CHANNELS
        for point in tl.static_range(POINTS):
            sample = (bag * LEVELS + level) * POINTS + point
            at_x = tl.load(x + sample, mask=real_bag, other=0.0).to(tl.float32)
            at_y = tl.load(y + sample, mask=real_bag, other=0.0).to(tl.float32)
            weight = tl.load(weights + sample, mask=real_bag, other=0.0).to(tl.float32)
            column, fx = _locate(at_x, width)
            row, fy = _locate(at_y, height)
            slope_weight = tl.zeros((BLOCK,), tl.float32)
            slope_x = tl.zeros((BLOCK,), tl.float32)
            slope_y = tl.zeros((BLOCK,), tl.float32)
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at, inside = _offsets(origin, row + below, column + right, height, width, HEADS * CHANNELS, channel)
                share_y, share_x = fy if below else 1 - fy, fx if right else 1 - fx
                pixel = tl.load(value + at, mask=real & inside, other=0.0).to(tl.float32)
                product = tl.sum(pixel * gradient, axis=1)
                slope_weight += product * share_y * share_x
                slope_x += product * share_y * (2 * right - 1)
                slope_y += product * share_x * (2 * below - 1)
                share = (weight * share_y * share_x)[:, None] * gradient
                tl.atomic_add(grad_value + at, share, mask=real & inside, sem="relaxed")
            # outside the map moving the point changes nothing
            slope_x = tl.where((at_x > -1) & (at_x < width), weight * slope_x, 0.0)
            slope_y = tl.where((at_y > -1) & (at_y < height), weight * slope_y, 0.0)
            tl.store(grad_x + sample, slope_x.to(grad_x.dtype.element_ty), mask=real_bag)
            tl.store(grad_y + sample, slope_y.to(grad_y.dtype.element_ty), mask=real_bag)
            tl.store(grad_weights + sample, slope_weight.to(grad_weights.dtype.element_ty), mask=real_bag)


INTERPRETED = not isinstance(_forward_kernel, triton.runtime.JITFunction)
