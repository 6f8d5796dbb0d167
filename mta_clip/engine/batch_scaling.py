"""Adapts learning rate and schedule to another batch size, by the linear scaling rule (Goyal et al., 2017)."""

import logging

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config import value_of

logger = logging.getLogger(__name__)

# Iterations that stand for a number of images: a batch of half the size takes twice as many of them.
ITERATION_KEYS = (
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",  # the same images at a low lr
    "SOLVER.STEPS",
    "SOLVER.CHECKPOINT_PERIOD",  # as many checkpoints and evaluations of a run as at the reference batch
    "TEST.EVAL_PERIOD",
    "MODEL.TAGCLIP.PSEUDO_LABELS_FROM_ITER",  # the same share of the run
)
# Iterations that stay, and why.
OTHER_ITERATION_KEYS = {
    "SOLVER.MAX_SKIPPED_STEPS": "a tolerance, not a part of the schedule",
    "SOLVER.LOG_PERIOD": "about the log that people read, not about training",
    "VIS_PERIOD": "nothing here reads it",
    "TEST.PRECISE_BN.NUM_ITER": "nothing here reads it",
}


def scale_to_batch(cfg: CfgNode) -> None:
    """Logs the effective batch and, with SOLVER.SCALE_TO_BATCH, adapts the schedule to it (in place).

    Learning rates grow linearly with IMS_PER_BATCH / REFERENCE_BATCH; ITERATION_KEYS shrink by the same factor, so that
    training sees the same number of images. REFERENCE_BATCH is set to the new batch, so that a config saved afterwards
    is not scaled twice.

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
    scaled = {key: _scaled(value_of(cfg, key), factor) for key in ITERATION_KEYS}
    solver.REFERENCE_BATCH = batch
    cfg.merge_from_list([part for pair in scaled.items() for part in pair])
    logger.info(
        "%s; scaled from batch %d (SOLVER.SCALE_TO_BATCH): lr %g, %s",
        effective,
        reference,
        solver.BASE_LR,
        ", ".join(f"{key} {value}" for key, value in scaled.items()),
    )


def _scaled(iterations: int | tuple[int, ...], factor: float) -> int | tuple[int, ...]:
    def scaled(count: int) -> int:
        return max(1, round(count / factor)) if count > 0 else count  # 0 means "never" and stays

    return scaled(iterations) if isinstance(iterations, int) else tuple(map(scaled, iterations))
