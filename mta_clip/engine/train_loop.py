"""One training step in any precision on any number of processes; detectron2's TrainerBase runs the loop and hooks."""

import contextlib
import math
import time
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .distributed import gather_rows, unwrap_model
from .gradients import GradientClipper
from .interrupts import Interrupts
from .non_finite import NonFiniteSteps
from .optimizer import load_optimizer_state
from .precision import Precision
from .seeding import seed_step
from .weight_average import WeightAverage


class TrainLoop(TrainerBase):
    """Forward, backward, clip, check, step.

    Unlike detectron2's SimpleTrainer it detects a non-finite loss on every process and before the optimizer's step, so
    that no weight is damaged and no process is left waiting.

    Args:
        model: in training mode maps a batch to a dict of scalar losses, already weighted. With `accumulate` above 1 it
            gets a part of the batch, and the whole of it: the mean over the parts has to be the loss of the whole.
        optimizer: over the model's trainable parameters.
        precision: of forward and backward pass, with the loss scaler if there is one.
        clipper: clips unscaled gradients before the step.
        seed: of the run, the same on all processes, at least 0.
        accumulate: number of equal parts in which the batch of a step goes through the model, one after the other.
        average: of the model's weights, updated after every step.
        non_finite: decides about steps whose loss or gradients are not finite; default: the first one is an error.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clipper: GradientClipper,
        seed: int,
        accumulate: int = 1,
        average: WeightAverage | None = None,
        non_finite: NonFiniteSteps | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.clipper = clipper
        self.seed = seed
        self.accumulate = accumulate
        self.average = average
        self.non_finite = non_finite or NonFiniteSteps()
        self.interrupts = Interrupts(once=comm.get_world_size() > 1)
        self.stop_signal = 0  # that one of the processes has received
        self.batches = iter(())  # set before training, when the first iteration is known

    def run_step(self) -> None:
        """Trains on the next batch.

        Raises:
            FloatingPointError: on all processes, if a loss is not finite or, without a loss scaler, a gradient, and
                `non_finite` does not skip the step.
        """
        start = time.perf_counter()
        batch: list[dict] = next(self.batches)
        data_time = time.perf_counter() - start
        if self.iter == self.start_iter and comm.get_world_size() > 2:
            self._settle(batch)
        losses = self._gradients(batch)
        self.precision.unscale(self.optimizer)
        gradient_norm = self.clipper(p for group in self.optimizer.param_groups for p in group["params"])
        problem, own = self._record(losses, gradient_norm, data_time)
        if problem:
            step = {"iteration": self.iter, "seed": self.seed, "losses": {k: loss.item() for k, loss in losses.items()}}
            self.non_finite.skip(problem, model=unwrap_model(self.model), batch=batch, own=own, **step)
            self.precision.skip()
            return
        self.non_finite.passed()
        self.precision.step(self.optimizer)
        if self.average:
            self.average.update(self.iter)

    def _settle(self, batch: Any) -> None:
        """A pass without a step, after which DistributedDataParallel arranges its buckets for good.

        More than two processes add up gradients in an order that depends on the buckets: without this, the first step
        of a resumed run would round otherwise than that step in an uninterrupted run.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self._gradients(batch)
        for buffer, before in buffers:
            buffer.copy_(before)

    def _gradients(self, batch: Any) -> dict[str, Tensor]:
        """Computes the gradients of this iteration; returns its losses."""
        seed_step(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad(set_to_none=True)
        return self._backward_in_parts(batch) if self.accumulate > 1 else self._backward(batch)

    def _backward(self, *batch: Any) -> dict[str, Tensor]:
        """The losses, divided by the number of parts, after their gradients have been added up."""
        with self.precision.autocast():
            losses = {name: loss / self.accumulate for name, loss in self.model(*batch).items()}
        self.precision.backward(sum(losses.values()))
        return {name: loss.detach() for name, loss in losses.items()}

    def _backward_in_parts(self, batch: list[dict]) -> dict[str, Tensor]:
        size, last = len(batch) // self.accumulate, self.accumulate - 1
        total: dict[str, Tensor] = {}
        for index in range(self.accumulate):
            # Processes exchange gradients once, with the last part.
            local = index < last and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if local else contextlib.nullcontext():
                losses = self._backward(batch[index * size : (index + 1) * size], batch)
            total = {name: loss + total.get(name, 0) for name, loss in losses.items()}
        return total

    def _record(self, losses: dict[str, Tensor], gradient_norm: Tensor, data_time: float) -> tuple[str, bool]:
        """Averages the numbers of this step over all processes, checks and stores them, in a single exchange.

        Returns:
            What is not finite, "" if all is well; and whether this process has a share in it.
        """
        scalars = [*(loss.float() for loss in losses.values()), gradient_norm.float()]
        others = torch.tensor([data_time, self.interrupts.received]).to(gradient_norm.device, non_blocking=True)
        rows = gather_rows(torch.cat([torch.stack(scalars), others])).cpu()  # waits for the device; the rest does not
        *means, norm, _, _ = rows.mean(dim=0).tolist()
        slowest, self.stop_signal = rows[:, -2].max().item(), int(rows[:, -1].max())
        metrics = dict(zip(losses, means, strict=True))
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            problem = f"loss became infinite or NaN at iteration {self.iter} in {', '.join(bad)}; all losses: {metrics}"
            return problem, not rows[comm.get_rank(), : len(means)].isfinite().all()
        if not math.isfinite(norm) and not self.precision.gradients_may_overflow:
            problem = f"gradients became infinite or NaN at iteration {self.iter} although all losses are finite"
            return f"{problem}: {metrics}", True
        if comm.is_main_process():
            self.storage.put_scalar("data_time", slowest)  # the slowest process sets the pace
            self.storage.put_scalar("total_loss", sum(means))
            if len(metrics) > 1:
                self.storage.put_scalars(**metrics)
            if math.isfinite(norm):
                self.storage.put_scalar("grad_norm", norm)
        return "", False

    def state_dict(self) -> dict[str, Any]:
        """Iteration and hooks (detectron2's), optimizer, loss scaler and seed.

        Also the weights that the model does not have, if there is an average: a checkpoint is saved while the model has
        the average, so these are the weights in training.
        """
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.precision.state_dict()
        state["seed"] = self.seed
        if self.average:
            state["weights"] = self.average.others()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` has saved; the model already has the weights of the checkpoint."""
        super().load_state_dict(state_dict)
        load_optimizer_state(self.optimizer, state_dict["optimizer"])
        self.precision.load_state_dict(state_dict["grad_scaler"])
        self.seed = state_dict["seed"]
        if self.average:
            self.average.start()
        if "weights" in state_dict:  # then the model has an average, whether this run goes on averaging or not
            unwrap_model(self.model).load_state_dict(state_dict["weights"], strict=False)
