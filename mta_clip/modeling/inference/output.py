"""The last step of inference: scores or labels at the output size.

Shapes: C classes, H and W = the image at the output size, r of its rows.
"""

from torch import Tensor

from ..ops import RowResizer, argmax_classes
from .progress import Progress
from .score_map import ScoreMap, Scores


def make_output(score_map: ScoreMap, size: tuple[int, int], *, label_maps_only: bool) -> dict[str, Tensor]:
    """Builds what a model returns for an image, a few rows at a time from top to bottom.

    Args:
        score_map: scores of the image at the size that entered the model.
        size: (H, W) in pixels; scores are resized to it bilinearly.
        label_maps_only: whether to return labels instead of scores.

    Returns:
        `sem_seg`, (C, H, W) float32 scores, or `labels`, (H, W) int64, and `label_scores`, (H, W) float32, the scores
        of these labels. Models with a trusty map (TagCLIP) add `trusty`, (H, W) float32 in [0, 1], the probability that
        a pixel belongs to a seen class.
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
    """Rows (C, r, W) of a score map, resized by `resizer`."""
    source = resizer.source(rows)
    return score_map.rows(source.start, source.stop).map(lambda part: resizer(part, rows))


def scores_of(labels: Tensor, scores: Tensor) -> Tensor:
    """The score (H, W) that each pixel has for its label (H, W), from scores (C, H, W)."""
    return scores.gather(0, labels[None])[0]


def _named(scores: Scores, label_maps_only: bool) -> dict[str, Tensor]:
    if label_maps_only:
        labels = argmax_classes(scores.classes)
        named = {"labels": labels, "label_scores": scores_of(labels, scores.classes).float()}
    else:
        named = {"sem_seg": scores.classes.float()}
    return named if scores.trusty is None else named | {"trusty": scores.trusty[0].float()}
