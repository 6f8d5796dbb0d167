"""Multi-scale and flip test-time augmentation for semantic segmentation (TEST.AUG).

Shapes: C classes, h and w = image as it enters the model, H and W = wanted output, r = rows of a strip.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .progress import progress_bar
from .strips import RowResizer, join_strips, prediction


class AugmentedModel(nn.Module):
    """Averages the score maps of resized and mirrored images; a drop-in for the model it wraps, at inference.

    Works with any meta-architecture that returns `sem_seg`. Augmented images go through the model one by one; what is
    kept is one score map per size, at that size, from which the output is made in strips of rows.

    Args:
        model: the meta-architecture.
        min_sizes: short sides to resize to, in pixels.
        max_size: the long side is never longer.
        flip: also the mirror image at every size.
        image_format: channel order for images that are read again, such as RGB.
        label_maps_only: returns label maps instead of score maps; memory is then bounded by the sizes above.

    Raises:
        ValueError: no sizes.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool,
        image_format: str = "RGB",
        label_maps_only: bool = False,
    ) -> None:
        super().__init__()
        if not min_sizes:
            raise ValueError("TEST.AUG.MIN_SIZES is empty: test-time augmentation needs at least one size")
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format
        self.label_maps_only = label_maps_only

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
            "label_maps_only": cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY,
        }

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Other class names for the model; see there."""
        self.model.set_vocabulary(names)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Predictions, image by image.

        Args:
            batched_inputs: dicts with `image` (3, h, w), or `file_name` alone; optionally `height` and `width`.

        Returns:
            Per image `{"sem_seg": (C, height, width)}`, the mean of the model's score maps; with `label_maps_only`,
            `{"labels": (height, width)}`, int64.

        Raises:
            ValueError: the model returns no `sem_seg`.
        """
        return [self._segment(inputs) for inputs in batched_inputs]

    def _segment(self, inputs: dict) -> dict[str, Tensor]:
        image = self._original_image(inputs)
        output_size = inputs.get("height", image.shape[0]), inputs.get("width", image.shape[1])
        score_maps = self._score_maps(inputs, image)
        strips = _mean_strips(score_maps, output_size)
        return join_strips((prediction(strip, self.label_maps_only) for strip in strips), output_size)

    def _score_maps(self, inputs: dict, image: np.ndarray) -> list[Tensor]:
        """The mean of an image's and its mirror image's scores, (C, h, w) at every size."""
        maps = []
        with progress_bar(len(self.min_sizes) * (1 + self.flip), "augmented image") as progress:
            for resized in self._resized(image):
                scores = self._scores(inputs, resized)
                progress.update()
                if self.flip:
                    scores = scores.add_(self._scores(inputs, resized.flip(-1)).flip(-1)).div_(2)
                    progress.update()
                maps.append(scores)
        return maps

    def _scores(self, inputs: dict, image: Tensor) -> Tensor:
        """The model's score maps (C, h, w) of an image (3, h, w)."""
        augmented = {**inputs, "image": image, "height": image.shape[1], "width": image.shape[2]}
        if hasattr(self.model, "segment"):  # gives scores even if the model is set to return label maps
            (result,) = self.model.segment([augmented], label_maps_only=False)
        else:
            (result,) = self.model([augmented])
        if "sem_seg" not in result:
            raise ValueError(
                f"test-time augmentation averages score maps, but the model returned {sorted(result)} and no "
                "'sem_seg'; a model without SegmentationModel's method `segment` needs TEST.SEM_SEG.LABEL_MAPS_ONLY "
                "False"
            )
        return result["sem_seg"]

    def _resized(self, image: np.ndarray) -> Iterator[Tensor]:
        """Yields (3, h, w) images from (H, W, 3)."""
        for min_size in self.min_sizes:
            resize = ResizeShortestEdge(min_size, self.max_size).get_transform(image)
            yield torch.from_numpy(resize.apply_image(image).transpose(2, 0, 1).copy())

    def _original_image(self, inputs: dict) -> np.ndarray:
        """The image before the data loader resized it, (H, W, 3): sizes larger than its are not blurred twice."""
        image = inputs.get("image")
        if image is not None:
            wanted = (inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2]))
            if "file_name" not in inputs or tuple(image.shape[1:]) == wanted:
                return image.permute(1, 2, 0).cpu().numpy()
        return read_image(inputs["file_name"], self.image_format)


def _mean_strips(maps: list[Tensor], output_size: tuple[int, int]) -> Iterator[Tensor]:
    """Strips (C, r, W) of the mean of maps (C, h, w), each resized to the output size."""
    resizers = [RowResizer(scores.shape[-2:], output_size) for scores in maps]
    step = min(resizer.rows_per_strip(scores) for resizer, scores in zip(resizers, maps, strict=True))
    for start in range(0, output_size[0], step):
        rows = slice(start, min(start + step, output_size[0]))
        parts = (resizer(x[:, resizer.source(rows)], rows) for resizer, x in zip(resizers, maps, strict=True))
        yield sum(parts) / len(maps)


def build_tta_model(cfg: CfgNode, model: nn.Module) -> AugmentedModel:
    """Wraps a model in the test-time augmentation of TEST.AUG."""
    return AugmentedModel(cfg, model)
