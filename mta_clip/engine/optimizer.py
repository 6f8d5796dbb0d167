"""Optimizer with Mask2Former's rules for learning rates and weight decay.

Mask2Former makes one group per parameter. Here parameters of equal learning rate and decay share a group: AdamW and
SGD update every parameter independently, so the results are the same, and a step takes only a few fused calls.
"""

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

logger = logging.getLogger(__name__)

NORM_TYPES = (
    nn.modules.batchnorm._BatchNorm,  # BatchNorm and SyncBatchNorm of any dimension
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# Parameters that act as embeddings without being an nn.Embedding: position tables (Swin, open_clip, timm), MTA-CLIP's
# contexts and its residual scale gamma, temperatures. Decay would pull them towards "no position", "no context", ...
# The pixel decoder's raw `level_embed` is not among them, as Mask2Former decays it.
EMBEDDING_NAMES = frozenset(
    {
        "relative_position_bias_table",
        "absolute_pos_embed",
        "positional_embedding",
        "pos_embed",
        "contexts",
        "gamma",
        "logit_scale",
    }
)


@dataclass
class ParameterGroup:
    """Parameters that share learning rate and decay, and where they come from."""

    lr: float
    weight_decay: float
    parameters: list[nn.Parameter] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)  # top-level modules
    kinds: set[str] = field(default_factory=set)  # weights | norms | embeddings

    @property
    def size(self) -> int:
        """Number of scalars."""
        return sum(p.numel() for p in self.parameters)

    @property
    def name(self) -> str:
        """Modules and kinds, as logs show them."""
        return f"{', '.join(sorted(self.modules))}: {', '.join(sorted(self.kinds))}"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that SOLVER.OPTIMIZER names, over the trainable parameters of a model.

    Raises:
        ValueError: unknown optimizer, nothing to train, or a row of SOLVER.WEIGHT_DECAY_BY_NAME that is no pair.
    """
    solver = cfg.SOLVER
    for row in solver.WEIGHT_DECAY_BY_NAME:
        if [*map(type, row)] not in ([str, float], [str, int]):
            raise ValueError(f"SOLVER.WEIGHT_DECAY_BY_NAME: {row!r} is not a pair [shell pattern, weight decay]")
    groups = group_parameters(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        weight_decay_by_name=solver.WEIGHT_DECAY_BY_NAME,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
    )
    if not groups:
        raise ValueError("the model has no trainable parameter: every one has requires_grad False")
    torch_groups = [
        {"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay, "name": g.name} for g in groups
    ]
    shared = {"lr": solver.BASE_LR, "fused": solver.FUSED or None}  # None = PyTorch's choice, False = one by one
    if solver.OPTIMIZER == "ADAMW":
        return torch.optim.AdamW(torch_groups, **shared)
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(torch_groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **shared)
    raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}, expected ADAMW or SGD")


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state_dict, but keeps how steps are computed (SOLVER.FUSED), which is no state of the training."""
    fused = optimizer.param_groups[0]["fused"]
    groups = [group | {"fused": fused} for group in state["param_groups"]]
    optimizer.load_state_dict(state | {"param_groups": groups})


def group_parameters(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    backbone_multiplier: float,
    weight_decay_by_name: Sequence[tuple[str, float]] = (),
) -> list[ParameterGroup]:
    """Sorts the trainable parameters of a model into groups of equal learning rate and weight decay.

    A parameter used twice is counted once, under its first name; frozen ones are left out.

    Args:
        base_lr: learning rate outside of the backbone.
        weight_decay: of everything but norm layers and embeddings; biases included.
        weight_decay_norm: of norm layers.
        weight_decay_embed: of nn.Embedding modules and the parameters in EMBEDDING_NAMES.
        backbone_multiplier: lr of modules with "backbone" in their name, relative to `base_lr`.
        weight_decay_by_name: shell patterns of parameter names and their weight decay, which replaces the three above;
            the first pattern that fits decides. A pattern that fits nothing is logged.
    """
    decays = {"weights": weight_decay, "norms": weight_decay_norm, "embeddings": weight_decay_embed}
    groups: dict[tuple[float, float], ParameterGroup] = {}
    seen: set[nn.Parameter] = set()
    used: set[str | None] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            kind = _kind(module, name)
            lr = base_lr * backbone_multiplier if "backbone" in module_name else base_lr
            full_name = f"{module_name}.{name}" if module_name else name
            named = next((row for row in weight_decay_by_name if fnmatch.fnmatchcase(full_name, row[0])), None)
            used.add(named and named[0])
            decay = decays[kind] if named is None else named[1]
            group = groups.setdefault((lr, decay), ParameterGroup(lr, decay))
            group.parameters.append(parameter)
            group.modules.add(module_name.split(".")[0] or name)
            group.kinds.add(kind)
    if idle := [pattern for pattern, _ in weight_decay_by_name if pattern not in used]:
        logger.warning("SOLVER.WEIGHT_DECAY_BY_NAME: no trainable parameter is decided by %s", ", ".join(idle))
    return list(groups.values())


def _kind(module: nn.Module, parameter_name: str) -> str:
    if isinstance(module, NORM_TYPES):
        return "norms"
    if isinstance(module, nn.Embedding) or parameter_name in EMBEDDING_NAMES:
        return "embeddings"
    return "weights"


def describe_groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> str:
    """A table of the optimizer's groups and the frozen parameters: tensors, scalars, learning rate, decay."""
    rows: list[list[Any]] = [
        [
            group["name"],
            len(group["params"]),
            f"{sum(p.numel() for p in group['params']):,}",
            f"{group.get('initial_lr', group['lr']):.3g}",
            f"{group['weight_decay']:.3g}",
        ]
        for group in optimizer.param_groups
    ]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    rows.append(["frozen", len(frozen), f"{sum(p.numel() for p in frozen):,}", "-", "-"])
    headers = ["parameter group", "tensors", "parameters", "lr", "decay"]
    return tabulate(rows, headers=headers, tablefmt="simple", colalign=("left", *["right"] * 4), disable_numparse=True)
