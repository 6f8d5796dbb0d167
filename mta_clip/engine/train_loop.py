"""One training step in any precision on any number of processes; detectron2's TrainerBase runs the loop and hooks."""

import math
import time
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from .distributed import gather_rows
from .gradients import GradientClipper
from .interrupts import Interrupts
from .precision import Precision
from .seeding import seed_step


class TrainLoop(TrainerBase):
    """Forward, backward, clip, check, step.

    Unlike detectron2's SimpleTrainer it detects a non-finite loss on every process and before the optimizer's step, so
    that no weight is damaged and no process is left waiting.

    Args:
        model: in training mode maps a batch to a dict of scalar losses, already weighted.
        optimizer: over the model's trainable parameters.
        precision: of forward and backward pass, with the loss scaler if there is one.
        clipper: clips unscaled gradients before the step.
        seed: of the run, the same on all processes, at least 0.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clipper: GradientClipper,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.clipper = clipper
        self.seed = seed
        self.interrupts = Interrupts(once=comm.get_world_size() > 1)
        self.stop_signal = 0  # that one of the processes has received
        self.batches = iter(())  # set before training, when the first iteration is known

    def run_step(self) -> None:
        """Trains on the next batch.

        Raises:
            FloatingPointError: on all processes, if a loss is not finite or, without a loss scaler, a gradient.
        """
        start = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - start
        seed_step(self.seed, self.iter, comm.get_rank())
        with self.precision.autocast():
            losses = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.backward(sum(losses.values()), self.optimizer)
        gradient_norm = self.clipper(p for group in self.optimizer.param_groups for p in group["params"])
        self._record(losses, gradient_norm, data_time)
        self.precision.step(self.optimizer)

    def _record(self, losses: dict[str, Tensor], gradient_norm: Tensor, data_time: float) -> None:
        """Averages the numbers of this step over all processes, checks and stores them, in a single exchange."""
        scalars = [*(loss.detach().float() for loss in losses.values()), gradient_norm.float()]
        others = torch.tensor([data_time, self.interrupts.received]).to(gradient_norm.device, non_blocking=True)
        rows = gather_rows(torch.cat([torch.stack(scalars), others])).cpu()  # waits for the device; the rest does not
        *means, norm, _, _ = rows.mean(dim=0).tolist()
        slowest, self.stop_signal = rows[:, -2].max().item(), int(rows[:, -1].max())
        metrics = dict(zip(losses, means, strict=True))
        if not all(math.isfinite(value) for value in means):
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            raise FloatingPointError(
                f"loss became infinite or NaN at iteration {self.iter} in {', '.join(bad)}; all losses: {metrics}. "
                "Lower SOLVER.BASE_LR, add warm-up, or train in another SOLVER.AMP.DTYPE"
            )
        if not math.isfinite(norm) and not self.precision.gradients_may_overflow:
            raise FloatingPointError(
                f"gradients became infinite or NaN at iteration {self.iter} although all losses are finite: {metrics}"
            )
        if comm.is_main_process():
            self.storage.put_scalar("data_time", slowest)  # the slowest process sets the pace
            self.storage.put_scalar("total_loss", sum(means))
            if len(metrics) > 1:
                self.storage.put_scalars(**metrics)
            if math.isfinite(norm):
                self.storage.put_scalar("grad_norm", norm)

    def state_dict(self) -> dict[str, Any]:
        """Iteration and hooks (detectron2's), optimizer, loss scaler and seed."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.precision.state_dict()
        state["seed"] = self.seed
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` has saved."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.precision.load_state_dict(state_dict["grad_scaler"])
        self.seed = state_dict["seed"]
