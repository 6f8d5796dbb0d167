"""Steps whose loss or gradients are infinite or NaN: what is said about them and kept, and whether they are skipped."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint.writers import save_plain

logger = logging.getLogger(__name__)

NAME = "non_finite"  # of the files
_ADVICE = (
    "Lower SOLVER.BASE_LR, add warm-up, train in another SOLVER.AMP.DTYPE, or set SOLVER.MAX_SKIPPED_STEPS to skip "
    "such steps"
)


class NonFiniteSteps:
    """Skips bad steps, or stops the training.

    Each process whose loss is bad leaves a file, which the next bad step replaces: `folder`/non_finite.pth of process
    0, non_finite_1.pth of process 1. It holds `iteration`, `problem`, `losses` (of this process), `seed` of the run,
    `batch` (the dicts of the images) and `model` (the weights before the step): all that it takes to repeat the step.

    Args:
        folder: for the files; "" leaves none.
        most_skipped: bad steps in a row that are skipped; at the next one, the training stops.

    Raises:
        ValueError: `most_skipped` is negative.
    """

    @configurable
    def __init__(self, *, folder: str = "", most_skipped: int = 0) -> None:
        if most_skipped < 0:
            raise ValueError(f"SOLVER.MAX_SKIPPED_STEPS is {most_skipped}, expected 0 or more")
        self.folder = folder
        self.most_skipped = most_skipped
        self.in_a_row = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a config."""
        return {"folder": cfg.OUTPUT_DIR, "most_skipped": cfg.SOLVER.MAX_SKIPPED_STEPS}

    def skip(self, problem: str, *, model: nn.Module, batch: Any, own: bool, **step: Any) -> None:
        """Returns if this step is to be skipped; all processes call it together.

        Args:
            problem: the beginning of the message: what is not finite, and in which iteration.
            model: with the weights before the step.
            batch: of this process.
            own: whether the loss of this process is bad.
            step: numbers and plain containers for the file.

        Raises:
            FloatingPointError: there were too many such steps, or the weights are already damaged, so that no other
                step can be better.
        """
        self.in_a_row += 1
        file = self._save(problem, model, batch, step) if own else ""
        found = comm.all_gather((_images(batch), damaged(model), file) if own else ((), damaged(model), ""))
        message = problem + "".join(
            f"; process {rank} had {', '.join(images) or 'its batch'}{f', kept in {file}' if file else ''}"
            for rank, (images, _, file) in enumerate(found)
            if images or file
        )
        if weights := sorted({name for _, names, _ in found for name in names}):
            raise FloatingPointError(
                f"{message}. Before this step, these weights were infinite or NaN: {', '.join(weights[:5])}"
                f"{f' and {len(weights) - 5} more' if len(weights) > 5 else ''}. Start from an earlier checkpoint"
            )
        if self.in_a_row > self.most_skipped:
            raise FloatingPointError(f"{message}. {_ADVICE}")
        logger.warning("Skipped: %s (%d of at most %d in a row)", message, self.in_a_row, self.most_skipped)

    def passed(self) -> None:
        """The step was good."""
        self.in_a_row = 0

    def _save(self, problem: str, model: nn.Module, batch: Any, step: Mapping[str, Any]) -> str:
        if not self.folder:
            return ""
        rank = comm.get_rank()
        path = Path(self.folder) / f"{NAME}{f'_{rank}' if rank else ''}.pth"
        plain = [{key: value for key, value in item.items() if _is_plain(value)} for item in _dicts(batch)]
        save_plain({"problem": problem, **step, "batch": plain, "model": model.state_dict()}, path)
        return str(path)


def damaged(model: nn.Module) -> list[str]:
    """Names of parameters that are infinite or NaN, and of buffers that are NaN: a mask may be infinite."""
    weights = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    return weights + [name for name, buffer in model.named_buffers() if buffer.isnan().any()]


def _images(batch: Any) -> tuple[str, ...]:
    """Files of a batch; if the pixels of some are infinite or NaN, only these."""
    items = _dicts(batch)
    broken = [item for item in items if "image" in item and not item["image"].isfinite().all()]
    note = " (infinite or NaN pixels)" if broken else ""
    return tuple(f"{item['file_name']}{note}" for item in broken or items if "file_name" in item)


def _dicts(batch: Any) -> list[Mapping[str, Any]]:
    return [item for item in batch if isinstance(item, Mapping)] if isinstance(batch, list) else []


def _is_plain(value: Any) -> bool:
    return type(value) in (Tensor, str, int, float, bool)
