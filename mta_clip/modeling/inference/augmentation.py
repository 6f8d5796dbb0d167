"""Multi-scale and flip test-time augmentation for semantic segmentation (TEST.AUG).

Shapes: C classes, H and W = an image at its original or output size, h and w = a resized copy of it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ...data.image_files import read_image
from ...data.transforms import ResizeShortestEdge
from ..ops import RowResizer
from .output import make_output, resized_rows
from .progress import Progress
from .score_map import ScoreMap, Scores, WholeScores


class AugmentedModel(nn.Module):
    """Averages the scores of resized and mirrored images; replaces the model it wraps at inference.

    Augmented images go through the model one by one; one score map per size is kept, at that size.

    Args:
        model: a `SegmentationModel`.
        min_sizes: lengths of the short side to resize to, in pixels.
        max_size: upper limit for the long side, in pixels.
        flip: whether to add the mirror image at every size.
        image_format: channel order of images that are read again from their file, such as RGB.

    Raises:
        ValueError: no sizes, or a model that gives no score maps.
    """

    @configurable
    def __init__(
        self, *, model: nn.Module, min_sizes: Sequence[int], max_size: int, flip: bool, image_format: str = "RGB"
    ) -> None:
        super().__init__()
        if not min_sizes:
            raise ValueError("TEST.AUG.MIN_SIZES is empty: test-time augmentation needs at least one size")
        if not hasattr(model, "score_maps"):
            raise ValueError(
                f"test-time augmentation averages score maps, which a {type(model).__name__} does not give: derive the "
                "model from mta_clip.modeling.SegmentationModel, or set TEST.AUG.ENABLED False"
            )
        self.model = model
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """Constructor arguments from TEST.AUG, INPUT.FORMAT and, for ratios, INPUT.MIN_SIZE_TEST.

        Raises:
            ValueError: see `min_sizes_from_config`.
        """
        return {
            "model": model,
            "min_sizes": min_sizes_from_config(cfg),
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
        }

    @property
    def vocabulary(self) -> list[str] | None:
        """See `vocabulary` of the model."""
        return self.model.vocabulary

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """See `set_vocabulary` of the model."""
        self.model.set_vocabulary(names)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Predictions as the model returns them, image by image; see `make_output`.

        Args:
            batched_inputs: dicts with `image` (3, h, w), values 0..255, or `file_name`, or both; optionally `height`
                and `width`, the output size in pixels (default: the size of the image that is used), and
                `label_maps_only` (default: that of the model).
        """
        results = []
        for inputs in batched_inputs:
            image = self._original_image(inputs)
            height, width = map(int, image.shape[:2])
            size = inputs.get("height", height), inputs.get("width", width)
            with self.model.inference_precision():
                score_map = MeanScores(self._score_maps(image), size)
                labels_only = bool(inputs.get("label_maps_only", self.model.label_maps_only))
                results.append(make_output(score_map, size, label_maps_only=labels_only))
        return results

    def _score_maps(self, image: np.ndarray) -> list[Scores]:
        """For each size, the scores (C, h, w), averaged over the image and its mirror image if `flip` is set."""
        maps = []
        with Progress(len(self.min_sizes) * (1 + self.flip), "augmented image") as progress:
            for min_size in self.min_sizes:
                resize = ResizeShortestEdge(min_size, self.max_size).get_transform(image)
                resized = torch.from_numpy(resize.apply_image(image).transpose(2, 0, 1).copy())
                scores = self._scores(resized)
                progress.update()
                if self.flip:
                    mirrored = self._scores(resized.flip(-1))
                    scores = scores.map(lambda one, other: one.add_(other.flip(-1)).div_(2), mirrored)
                    progress.update()
                maps.append(scores)
        return maps

    def _scores(self, image: Tensor) -> Scores:
        """The model's scores (C, h, w) of an image (3, h, w)."""
        (score_map,) = self.model.score_maps(self.model.preprocess([{"image": image}]))
        return score_map.whole()

    def _original_image(self, inputs: dict) -> np.ndarray:
        """The image before the data loader resized it, (H, W, 3): resizing it twice would blur it."""
        image = inputs.get("image")
        if image is not None:
            wanted = (inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2]))
            if "file_name" not in inputs or tuple(image.shape[1:]) == wanted:
                return image.permute(1, 2, 0).cpu().numpy()
        return read_image(inputs["file_name"], image_format=self.image_format)


def min_sizes_from_config(cfg: CfgNode) -> list[int]:
    """The short sides in pixels: TEST.AUG.RATIOS of INPUT.MIN_SIZE_TEST, or TEST.AUG.MIN_SIZES if there are no ratios.

    Raises:
        ValueError: a ratio is not positive, or there are ratios but no INPUT.MIN_SIZE_TEST to take them of.
    """
    ratios, whole = cfg.TEST.AUG.RATIOS, cfg.INPUT.MIN_SIZE_TEST
    if not ratios:
        return list(cfg.TEST.AUG.MIN_SIZES)
    if whole <= 0:
        raise ValueError(
            f"TEST.AUG.RATIOS are of INPUT.MIN_SIZE_TEST, which is {whole}: set it, or set TEST.AUG.RATIOS [] and "
            "TEST.AUG.MIN_SIZES"
        )
    if min(ratios) <= 0:
        raise ValueError(f"TEST.AUG.RATIOS is {list(ratios)}; expected positive numbers, 1.0 = INPUT.MIN_SIZE_TEST")
    return [round(whole * ratio) for ratio in ratios]


class MeanScores(ScoreMap):
    """The mean of score maps of several sizes, each resized to one common size.

    Args:
        maps: scores (C, h, w), at least one; h and w may differ.
        size: (H, W) in pixels.
    """

    def __init__(self, maps: Sequence[Scores], size: tuple[int, int]) -> None:
        score_maps = [WholeScores(scores) for scores in maps]
        self.parts = [(score_map, RowResizer(score_map.size, size)) for score_map in score_maps]
        super().__init__(size, sum(score_map.channels for score_map in score_maps), score_maps[0].device)

    def rows(self, start: int, stop: int) -> Scores:
        """See ScoreMap."""
        parts = [resized_rows(score_map, resizer, slice(start, stop)) for score_map, resizer in self.parts]
        return parts[0].map(lambda *resized: sum(resized) / len(resized), *parts[1:])
