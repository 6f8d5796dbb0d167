"""Exponential moving average of the weights in training (EMA; Polyak and Juditsky, 1992)."""

import contextlib
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn


class WeightAverage:
    """Averages the trainable parameters of a model and its buffers of floats, such as running statistics.

    After step t, counted from 0, an average is d * average + (1 - d) * weight, with d = min(decay, (1 + t) / (10 + t)),
    as in TensorFlow: so a short run forgets its initial weights as well.

    Args:
        model: not wrapped in DistributedDataParallel.
        decay: in [0, 1).

    Raises:
        ValueError: `decay` is out of its range.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY is {decay}, expected at least 0 and below 1")
        self.model = model
        self.decay = decay
        self.start()

    def start(self) -> None:
        """Takes the weights that the model has now as the average."""
        self._others = {name: tensor.clone() for name, tensor in self._weights().items()}

    def update(self, step: int) -> None:
        """Adds the weights after step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self._others.values()], [*self._weights().values()], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside this context the model has the averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def others(self) -> dict[str, Tensor]:
        """By name, the weights that the model does not have: the averages or, inside `applied`, those in training."""
        return dict(self._others)

    def _exchange(self) -> None:
        for name, tensor in self._weights().items():
            other = self._others[name].clone()
            self._others[name].copy_(tensor)
            tensor.copy_(other)

    def _weights(self) -> dict[str, Tensor]:
        saved = self.model.state_dict().keys()
        parameters = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        buffers = {name: b for name, b in self.model.named_buffers() if b.is_floating_point() and name in saved}
        return parameters | buffers


def build_weight_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """What SOLVER.EMA asks for; None if it is not enabled.

    Raises:
        ValueError: see WeightAverage.
    """
    return WeightAverage(model, decay=cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
