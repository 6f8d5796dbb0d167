"""The last step of inference: scores at the wanted size, or labels.

Shapes: C classes, H and W = output, r rows of it.
"""

from torch import Tensor

from ..ops import RowResizer, argmax_classes
from .progress import Progress
from .score_map import ScoreMap, Scores


def make_output(score_map: ScoreMap, size: tuple[int, int], *, label_maps_only: bool) -> dict[str, Tensor]:
    """What a model returns for an image, made from top to bottom a few rows at a time.

    Args:
        score_map: of the image as the model saw it.
        size: (H, W), to which scores are resized bilinearly.
        label_maps_only: labels instead of scores.

    Returns:
        `sem_seg` (C, H, W) float32 scores, or `labels` (H, W) int64; and `trusty` (H, W) in 0..1, the probability
        that a pixel is of a seen class, if the model has one (TagCLIP).
    """
    resizer = RowResizer(score_map.size, size)
    maps: dict[str, Tensor] = {}
    with Progress(size[0], "row") as progress:
        for rows in resizer.blocks(score_map.channels, score_map.device):
            scores = resized_rows(score_map, resizer, rows)
            for name, part in _named(scores, label_maps_only).items():
                if name not in maps:
                    maps[name] = part.new_empty((*part.shape[:-2], *size))
                maps[name][..., rows, :] = part
            progress.update(rows.stop - rows.start)
    return maps


def resized_rows(score_map: ScoreMap, resizer: RowResizer, rows: slice) -> Scores:
    """Rows (C, r, W) of a score map at the size that a resizer makes."""
    source = resizer.source(rows)
    return score_map.rows(source.start, source.stop).map(lambda part: resizer(part, rows))


def _named(scores: Scores, label_maps_only: bool) -> dict[str, Tensor]:
    named = {"labels": argmax_classes(scores.classes)} if label_maps_only else {"sem_seg": scores.classes.float()}
    return named if scores.trusty is None else named | {"trusty": scores.trusty[0].float()}
