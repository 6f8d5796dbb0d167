"""A GPU that is not there: shapes, dtypes and devices of CUDA tensors without their numbers, on any machine.

`FakeCuda` runs operators on CPU tensors as usual and those on CUDA tensors by PyTorch's FakeTensorMode, which refuses
operands on different devices. What is copied to the CPU is zeros. Every operator for which the CPU would wait until the
GPU has finished its work is counted, with the place in mta_clip that called it: what
`torch.cuda.set_sync_debug_mode` reports on a real one.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from scripts import ROOT
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

# The size of their result is a number on the GPU. `repeat_interleave` with a tensor has a parameter for it.
SIZED_BY_DATA = {"nonzero", "unique_dim", "_unique2", "unique_consecutive", "masked_select", "bincount"}
COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}


class FakeCuda(TorchDispatchMode):
    """See above; entered by `fake_cuda`.

    Attributes:
        waits: how often the CPU waited, by "file:function of mta_clip: operator".
        ran: operators that ran on the GPU, with the dtypes of their tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake_mode = FakeTensorMode()
        self.waits: Counter[str] = Counter()
        self.ran: set[tuple[Any, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device  # asked for at every turn
        flat, spec = tree_flatten((args, kwargs or {}))
        if not any(_is_on_gpu(x) for x in flat):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        self.ran |= {(func, x.dtype) for x in flat if isinstance(x, FakeTensor)}
        name = func.overloadpacket.__name__
        if waits_for_gpu(name, flat, kwargs or {}):
            self.waits[f"{_place()}: {name}"] += 1
        if name == "_local_scalar_dense":
            with unset_fake_temporarily():
                return torch.zeros((), dtype=flat[0].dtype).item()
        if name == "copy_" and not isinstance(args[0], FakeTensor):
            return args[0]
        flat = [self._faked(x) if isinstance(x, Tensor) else x for x in flat]
        args, kwargs = tree_unflatten(flat, spec)
        return tree_map_only(FakeTensor, _zeros_on_cpu, func(*args, **kwargs))

    def _faked(self, x: Tensor) -> FakeTensor:
        if isinstance(x, FakeTensor):
            return x
        with unset_fake_temporarily():
            return self.fake_mode.from_tensor(x.detach())


def _is_on_gpu(x: Any) -> bool:
    return isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type != "cpu")


def _zeros_on_cpu(x: FakeTensor) -> Tensor:
    if x.device.type != "cpu":
        return x
    with unset_fake_temporarily():
        return torch.zeros(x.shape, dtype=x.dtype)


def waits_for_gpu(name: str, flat: Sequence[Any], kwargs: dict) -> bool:
    """Whether the CPU waits in an operator with a tensor or device of the GPU among its arguments."""
    tensors = [x for x in flat if isinstance(x, Tensor)]
    if name in COPIES:
        target = tensors[0].device if name == "copy_" else kwargs.get("device") or tensors[0].device
        crosses = target.type != tensors[-1].device.type
        non_blocking = kwargs.get("non_blocking", name == "copy_" and True in flat[2:])
        return crosses and (target.type == "cpu" or not non_blocking)  # what arrives on the CPU is waited for anyhow
    if name in INDEXING:  # bool masks become indices; indices on the CPU are copied
        return any(x.dtype in (torch.bool, torch.uint8) or x.device.type == "cpu" for x in _indices(name, tensors))
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name == "_local_scalar_dense" or name in SIZED_BY_DATA


def _indices(name: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors[1:] if "put" not in name else tensors[1:-1]


def _place() -> str:
    """The innermost function of mta_clip that is running."""
    frame = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(f"{ROOT}/mta_clip/"):
            return f"{path.removeprefix(f'{ROOT}/mta_clip/')}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _backward(roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> dict[Tensor, Tensor]:
    """Gradients of the leaves, node by node: PyTorch's own engine would ask the GPU for its streams."""
    nodes, users = [root.grad_fn for root in roots], Counter()
    known = set(nodes)
    for node in nodes:  # grows meanwhile
        for following, _ in node.next_functions:
            if following is not None:
                users[following] += 1
                if following not in known:
                    known.add(following)
                    nodes.append(following)
    incoming: dict[Any, dict[int, Tensor]] = {node: {} for node in nodes}
    for root, gradient in zip(roots, gradients, strict=True):
        _add(incoming, root.grad_fn, root.output_nr, torch.ones_like(root) if gradient is None else gradient)
    ready, leaves = [node for node in set(nodes) if not users[node]], {}
    while ready:
        node = ready.pop()
        given = [incoming[node].get(i) for i in range(len(node._input_metadata))]
        following = node.next_functions
        if hasattr(node, "variable"):
            leaves[node.variable] = given[0]
        results = (None,) * len(following)
        if following and any(x is not None for x in given):
            results = node.apply(*given) if isinstance(node, torch.autograd.function.FunctionCtx) else node(*given)
            results = results if isinstance(results, tuple) else (results,)
        for (receiver, index), result in zip(following, results, strict=False):
            if receiver is None:
                continue
            if result is not None:
                _add(incoming, receiver, index, result)
            users[receiver] -= 1
            if not users[receiver]:
                ready.append(receiver)
    return leaves


def _add(incoming: dict[Any, dict[int, Tensor]], node: Any, index: int, gradient: Tensor) -> None:
    """Adds a gradient in the shape and dtype of the tensor it belongs to, as PyTorch's engine does."""
    meta = node._input_metadata[index]
    if gradient.device != meta.device:
        raise RuntimeError(f"{node.name()}: expected a gradient on {meta.device}, got one on {gradient.device}")
    gradient = gradient.sum_to_size(meta.shape).to(meta.dtype)
    before = incoming[node].get(index)
    incoming[node][index] = gradient if before is None else before + gradient


def _fake_backward(tensors: Any, grad_tensors: Any = None, *_: Any, **__: Any) -> None:
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    grad_tensors = grad_tensors if isinstance(grad_tensors, (list, tuple)) else [grad_tensors] * len(tensors)
    with torch.no_grad():
        for leaf, gradient in _backward(tensors, grad_tensors).items():
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _fake_grad(outputs: Tensor, inputs: Any, grad_outputs: Any = None, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        leaves = _backward([outputs], [grad_outputs])
    return tuple(leaves[x] for x in ([inputs] if isinstance(inputs, Tensor) else inputs))


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Within it, `cuda` is a device like any other.

    Yields:
        The mode that counts.
    """
    mode = FakeCuda()
    patches = {
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *_: True,
        "torch.autograd.backward": _fake_backward,
        "torch.autograd.grad": _fake_grad,
        "torch._subclasses.fake_tensor.FakeTensor.tolist": lambda x: x.cpu().tolist(),
    }
    with ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(mode.fake_mode)
        yield stack.enter_context(mode)
