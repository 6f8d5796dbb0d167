"""The training run that a config describes: model, data, schedule, checkpoints, evaluation, logs."""

import contextlib
import json
import logging
import os
import weakref
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from torch import nn

from ..checkpoint import SegmentationCheckpointer
from ..data import build_train_loader, with_classes
from ..data.check import check_training_data
from .best_checkpoint import build_best_checkpoint
from .distributed import wrap_model
from .evaluate import Results, check_test_classes, evaluate
from .gradients import GradientClipper
from .interrupts import Interrupted
from .launch import restarts
from .lr_scheduler import build_lr_scheduler, continue_schedule
from .non_finite import NonFiniteSteps
from .optimizer import build_optimizer, describe_groups
from .precision import Precision
from .train_loop import TrainLoop
from .weight_average import build_weight_average

logger = logging.getLogger(__name__)

METRICS_FILE = "training_metrics.json"  # one JSON object per line; metrics.json is the evaluator's


def forget_later(file: Path, iteration: int) -> None:
    """Cuts a file of metrics before the first line of this iteration or a later one, or that a crash has cut short."""
    kept = 0
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else []:
        try:
            later = not line.endswith(b"\n") or json.loads(line)["iteration"] >= iteration
        except ValueError:
            later = True
        if later:
            os.truncate(file, kept)  # in place: the writer has it open
            return
        kept += len(line)


class EvaluationHook(hooks.EvalHook):
    """Evaluates periodically, and at the end of training if it succeeded.

    A run that is resumed from a checkpoint after which the evaluation was cut off starts with this evaluation.
    """

    evaluated: int | None = None  # iteration after which it evaluated last; None: unknown

    def _do_eval(self) -> None:
        super()._do_eval()
        self.evaluated = self.trainer.iter

    def before_train(self) -> None:
        """Evaluates what an interrupted run had still to evaluate."""
        before = self.trainer.start_iter - 1
        missed = self.evaluated not in (None, before) and self.trainer.start_iter < self.trainer.max_iter
        if missed and self._period > 0 and self.trainer.start_iter % self._period == 0:
            self.trainer.iter = self.trainer.storage.iter = before
            self._do_eval()

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: the iteration of the last evaluation, or -1."""
        return {"evaluated": -1 if self.evaluated is None else self.evaluated}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes over what `state_dict` gave."""
        self.evaluated = state_dict["evaluated"]

    def after_train(self) -> None:
        """Evaluates the last iteration, if training reached it."""
        if self.trainer.iter >= self.trainer.max_iter:  # detectron2's own also runs after a last step that failed
            # It has counted one more than there are, if there was no step left to do.
            self.trainer.iter = self.trainer.storage.iter = self.trainer.max_iter
            super().after_train()


class InterruptHook(HookBase):
    """After a step in which a process received a signal, all of them save a checkpoint and stop."""

    def after_step(self) -> None:
        """Saves and stops if a signal came."""
        if self.trainer.stop_signal:
            self.trainer.save_and_stop(self.trainer.stop_signal)


class Trainer(TrainLoop):
    """Does what detectron2's DefaultTrainer does, on any device and with exact resuming.

    Args:
        cfg: of the run; everything the trainer needs is built from it.

    Raises:
        ValueError: a setting that cannot be used; see `Precision`, `GradientClipper`, `WeightAverage`,
            `NonFiniteSteps`, `build_optimizer`, `build_lr_scheduler` and `build_best_checkpoint`; or data that cannot
            be trained on, see `check_training_data`.
        FileNotFoundError, KeyError: a dataset or its files are missing.

    Example:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.check_data(cfg)
        model = self.build_model(cfg)
        precision = Precision(cfg)
        optimizer = build_optimizer(cfg, model)
        logger.info("Parameter groups:\n%s", describe_groups(optimizer, model))
        super().__init__(
            model=wrap_model(model, find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS),
            optimizer=optimizer,
            precision=precision,
            clipper=GradientClipper(cfg),
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            accumulate=cfg.SOLVER.ACCUMULATE,
            average=build_weight_average(cfg, model),
            non_finite=NonFiniteSteps(cfg),
        )
        self.cfg = cfg
        self.scheduler = build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SegmentationCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            skip=cfg.MODEL.WEIGHTS_SKIP,
            reset_classes=cfg.MODEL.WEIGHTS_RESET_CLASSES,
            config=with_classes(cfg).dump(),
            weights_to_save=self.weights_in_use,
            trainer=weakref.proxy(self),
        )
        self.best_checkpoint = build_best_checkpoint(cfg, self.checkpointer)
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.results: Results = {}
        self.register_hooks(self.build_hooks())

    @classmethod
    def check_data(cls, cfg: CfgNode) -> None:
        """Looks at the data before anything is built or downloaded. Override to train on other data; may raise."""
        check_training_data(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model that is trained, on MODEL.DEVICE. Override to train another one."""
        return build_model(cfg)

    def build_train_loader(self) -> Any:
        """The loader of training batches. Override to train on other data.

        Returns:
            An iterable whose first batch is that of iteration `self.start_iter`.
        """
        return build_train_loader(self.cfg, seed=self.seed, start_iter=self.start_iter)

    def test(self) -> Results:
        """Evaluates the model. Override to evaluate in another way.

        Returns:
            A nested dict of metrics, which is logged and returned by `train`.
        """
        return evaluate(self.cfg, self.model)

    def weights_in_use(self) -> contextlib.AbstractContextManager:
        """A context in which the model has the weights to evaluate and to save: the average if there is one."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def resume_or_load(self, *, resume: bool) -> None:
        """Continues from the last checkpoint of OUTPUT_DIR, or starts from MODEL.WEIGHTS.

        Resuming restores weights, optimizer, schedule, loss scaler, position in the data and all randomness: with the
        same config and number of processes the run ends as if it had not been interrupted. A job that was restarted
        after a failure (`launch.restarts`) always resumes. With another schedule in the config, such as a larger
        SOLVER.MAX_ITER, the run continues as if the schedule had been this one from the start.

        Args:
            resume: continue from the last checkpoint if there is one.

        Raises:
            ValueError: the checkpoint has been trained for more than SOLVER.MAX_ITER iterations.
            FileNotFoundError, CheckpointError: see `SegmentationCheckpointer.load`.
        """
        restart, max_restarts = restarts()
        resume = resume or restart > 0
        found = self.checkpointer.has_checkpoint()
        if restart:
            logger.warning("Restart %d of %d", restart, max_restarts)
        if resume and not found:
            logger.warning("No checkpoint to resume from in %s, starting from MODEL.WEIGHTS", self.cfg.OUTPUT_DIR)
        if found and not resume:
            logger.warning("%s holds checkpoints of an earlier run, which will be overwritten", self.cfg.OUTPUT_DIR)
            if max_restarts and comm.is_main_process():  # a restart must continue this run, not the earlier one
                (Path(self.cfg.OUTPUT_DIR) / "last_checkpoint").unlink()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and found:
            self._continue()
        elif self.average:
            self.average.start()

    def _continue(self) -> None:
        self.start_iter = self.iter + 1  # a checkpoint names the iteration it has finished
        if self.start_iter > self.max_iter:
            raise ValueError(
                f"{self.checkpointer.get_checkpoint_file()} has been trained for {self.start_iter} iterations, but "
                f"SOLVER.MAX_ITER is {self.max_iter}. Set MAX_ITER to {self.start_iter} or more, or evaluate it with "
                "--eval-only --resume"
            )
        continue_schedule(self.scheduler, self.optimizer)
        if comm.is_main_process():
            forget_later(Path(self.cfg.OUTPUT_DIR) / METRICS_FILE, self.start_iter)
        if self.best_checkpoint and comm.is_main_process():
            self.best_checkpoint.restore()

    def train(self) -> Results:
        """Trains to SOLVER.MAX_ITER and evaluates.

        SIGINT and SIGTERM save a checkpoint, from which `resume_or_load` continues.

        Returns:
            Results of the last evaluation, on the main process; {} on the others, and without DATASETS.TEST.

        Raises:
            FloatingPointError: see `run_step`.
            Interrupted: a signal has stopped the training.
            KeyError: the evaluation does not give the metric of TEST.KEEP_BEST.
        """
        self.model.train()
        with self.interrupts.noted():  # before loaders start processes, which inherit this
            self.batches = iter(self.build_train_loader())
            super().train(self.start_iter, self.max_iter)
        return self.results

    def save_and_stop(self, signum: int) -> None:
        """Saves a checkpoint of the iteration that is finished, and raises `Interrupted`."""
        if self.iter + 1 < self.max_iter:  # otherwise there is model_final.pth
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
        logger.warning("Stopped after iteration %d; --resume continues from here", self.iter)
        raise Interrupted(signum)

    def build_hooks(self) -> list[HookBase]:
        """Hooks for timing, schedule, checkpoints, evaluation and logs, in this order so that logs include metrics."""
        cfg = self.cfg
        result: list[HookBase] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        result.append(InterruptHook())
        if cfg.DATASETS.TEST:
            check_test_classes(cfg, self.model)  # now, not after hours of training
            result.append(EvaluationHook(cfg.TEST.EVAL_PERIOD, self._test_and_keep))
        if comm.is_main_process():
            result.append(hooks.PeriodicWriter(self.build_writers(), period=cfg.SOLVER.LOG_PERIOD))
        return result

    def build_writers(self) -> list[EventWriter]:
        """Writers of the progress line (losses, remaining time) and of the same numbers as JSON and for TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(str(folder / METRICS_FILE)),
            TensorboardXWriter(str(folder)),
        ]

    def _test_and_keep(self) -> Results:
        try:
            with self.weights_in_use(), self.interrupts.at_once():
                self.results = self.test()
        except Interrupted as error:
            self.save_and_stop(error.signum)
        if self.best_checkpoint and comm.is_main_process():
            self.best_checkpoint.update(self.results, min(self.iter + 1, self.max_iter))  # after_train counts one more
        return self.results
