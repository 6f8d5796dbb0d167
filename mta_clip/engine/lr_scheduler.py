"""Learning-rate schedule: linear warm-up, polynomial decay, optional floor."""

import logging
import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import _LRScheduler  # detectron2's LRScheduler hook saves the state of this type

logger = logging.getLogger(__name__)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> _LRScheduler:
    """The schedule SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR, or one of detectron2's own.

    Raises:
        ValueError: WarmupPolyLR with another SOLVER.WARMUP_METHOD than "linear", or a name that detectron2 does not
            know.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    if cfg.SOLVER.WARMUP_METHOD != "linear":
        raise ValueError(f"WarmupPolyLR warms up linearly, SOLVER.WARMUP_METHOD is {cfg.SOLVER.WARMUP_METHOD!r}")
    return WarmupPolyLR(
        optimizer,
        max_iters=cfg.SOLVER.MAX_ITER,
        power=cfg.SOLVER.POLY_LR_POWER,
        constant_ending=cfg.SOLVER.POLY_LR_CONSTANT_ENDING,
        min_lr=cfg.SOLVER.POLY_LR_MIN,
        decay_after_warmup=cfg.SOLVER.POLY_LR_AFTER_WARMUP,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
    )


def continue_schedule(scheduler: _LRScheduler, optimizer: Optimizer) -> None:
    """Gives a resumed optimizer the learning rates of the config's schedule at the scheduler's position.

    The checkpoint has those of its own schedule: 0 after the last iteration, with which a run that is prolonged would
    take its first step.

    Args:
        scheduler: with the position of the checkpoint.
        optimizer: with the state of the checkpoint; changed in place.
    """
    planned = [float(lr) for lr in scheduler.get_lr()]
    saved = [group["lr"] for group in optimizer.param_groups]
    if not all(map(math.isclose, saved, planned)):
        logger.warning(
            "The checkpoint stopped at lr %s, where the schedule of this config has %s: SOLVER.MAX_ITER or another key "
            "of the schedule has changed. Training continues as if the schedule had been this one from the start",
            _listed(saved),
            _listed(planned),
        )
    for group, lr in zip(optimizer.param_groups, planned, strict=True):
        group["lr"] = lr


def _listed(rates: list[float]) -> str:
    return ", ".join(f"{lr:.4g}" for lr in dict.fromkeys(rates))


class WarmupPolyLR(_LRScheduler):
    """lr(t) = warmup(t) * (min_lr + (base - min_lr) * (1 - t / T) ** power), per parameter group.

    warmup(t) rises linearly from `warmup_factor` to 1 over the first `warmup_iters` iterations and multiplies the
    regular value. With min_lr 0 this is DeepLab's schedule in detectron2, which Mask2Former uses; with min_lr > 0
    it is mmcv's poly policy with linear warm-up, which TagCLIP uses.

    With `decay_after_warmup`, the warm-up leads to the base lr, and the decay takes the iterations after it: t and T
    are counted from its end. These are mmengine's LinearLR and PolyLR one after the other, which MTA-CLIP uses; there
    each of the two ends one iteration earlier.

    Args:
        optimizer: whose groups have the base learning rates.
        max_iters: T, at which the decay ends.
        power: exponent of the decay.
        constant_ending: after the warm-up, the share of the base lr below which the lr does not fall.
        min_lr: absolute lr that the regular value decays to, the same in all groups.
        decay_after_warmup: the decay starts when the warm-up ends, not at iteration 0.
        warmup_iters: iterations of warm-up; 0 = none.
        warmup_factor: share of the regular value that the warm-up starts at, 0..1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        max_iters: int,
        power: float = 0.9,
        constant_ending: float = 0.0,
        min_lr: float = 0.0,
        decay_after_warmup: bool = False,
        warmup_iters: int = 0,
        warmup_factor: float = 1.0,
    ) -> None:
        self.max_iters = max_iters
        self.power = power
        self.constant_ending = constant_ending
        self.min_lr = min_lr
        self.decay_from = warmup_iters if decay_after_warmup else 0
        self.warmup_iters = warmup_iters
        self.warmup_factor = warmup_factor
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each parameter group at the current iteration."""
        return [self._lr_at(self.last_epoch, float(base)) for base in self.base_lrs]

    def _lr_at(self, iteration: int, base: float) -> float:
        done = (iteration - self.decay_from) / max(1, self.max_iters - self.decay_from)
        decay = (1 - min(max(0.0, done), 1.0)) ** self.power
        regular = self.min_lr + (base - self.min_lr) * decay
        if iteration < self.warmup_iters:
            return regular * (1 - (1 - iteration / self.warmup_iters) * (1 - self.warmup_factor))
        return max(regular, self.constant_ending * base)

    def state_dict(self) -> dict[str, Any]:
        """The position only: as with detectron2's own schedulers, the formula comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}
