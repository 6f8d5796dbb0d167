"""Adapts learning rate and schedule to another batch size, by the linear scaling rule (Goyal et al., 2017)."""

import logging

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def scale_to_batch(cfg: CfgNode) -> None:
    """Logs the effective batch and, with SOLVER.SCALE_TO_BATCH, adapts the schedule to it (in place).

    Learning rates grow linearly with IMS_PER_BATCH / REFERENCE_BATCH; MAX_ITER, WARMUP_ITERS, STEPS,
    CHECKPOINT_PERIOD and TEST.EVAL_PERIOD shrink by the same factor, so that training sees the same number of images.
    REFERENCE_BATCH is set to the new batch, so that a config saved afterwards is not scaled twice.

    Raises:
        ValueError: SOLVER.IMS_PER_BATCH is below 1, or SOLVER.REFERENCE_BATCH is and the schedule is to be scaled.
    """
    solver = cfg.SOLVER
    batch, reference, processes = solver.IMS_PER_BATCH, solver.REFERENCE_BATCH, comm.get_world_size()
    if batch < 1:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}; a batch needs at least one image")
    effective = f"Effective batch {batch} = {processes} process(es) x {batch / processes:g} images"
    if not solver.SCALE_TO_BATCH:
        logger.info(
            "%s; the schedule is taken as written (lr %g, %d iterations): SOLVER.SCALE_TO_BATCH is off",
            effective,
            solver.BASE_LR,
            solver.MAX_ITER,
        )
        return
    if reference < 1:
        raise ValueError(f"SOLVER.REFERENCE_BATCH is {reference}, expected the batch that the config was written for")
    factor = batch / reference
    solver.BASE_LR *= factor
    solver.POLY_LR_MIN *= factor
    solver.MAX_ITER = _iterations(solver.MAX_ITER, factor)
    solver.WARMUP_ITERS = _iterations(solver.WARMUP_ITERS, factor)
    solver.STEPS = tuple(_iterations(step, factor) for step in solver.STEPS)
    solver.CHECKPOINT_PERIOD = _iterations(solver.CHECKPOINT_PERIOD, factor)
    cfg.TEST.EVAL_PERIOD = _iterations(cfg.TEST.EVAL_PERIOD, factor)
    solver.REFERENCE_BATCH = batch
    logger.info(
        "%s; scaled from batch %d (SOLVER.SCALE_TO_BATCH): lr %g, %d iterations, %d of them warm-up, checkpoint "
        "every %d, evaluation every %d",
        effective,
        reference,
        solver.BASE_LR,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
        solver.CHECKPOINT_PERIOD,
        cfg.TEST.EVAL_PERIOD,
    )


def _iterations(count: int, factor: float) -> int:
    return max(1, round(count / factor)) if count > 0 else count  # 0 means "never" and stays
