"""Multi-scale and flip test-time augmentation for semantic segmentation (TEST.AUG).

Shapes: C classes, h and w = image as it enters the model, H and W = wanted output.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class SemanticSegmentorWithTTA(nn.Module):
    """Averages the score maps of resized and mirrored images; a drop-in for the model it wraps, at inference.

    Works with any meta-architecture that returns `sem_seg`. Augmented images go through the model one by one, and
    their score maps into a running sum.

    Args:
        model: the meta-architecture.
        min_sizes: short sides to resize to, in pixels.
        max_size: the long side is never longer.
        flip: also the mirror image at every size.
        image_format: channel order for images that are read again, such as RGB.

    Raises:
        ValueError: no sizes.
    """

    @configurable
    def __init__(
        self, *, model: nn.Module, min_sizes: Sequence[int], max_size: int, flip: bool, image_format: str = "RGB"
    ) -> None:
        super().__init__()
        if not min_sizes:
            raise ValueError("TEST.AUG.MIN_SIZES is empty: test-time augmentation needs at least one size")
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.flip = flip
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Predictions, image by image.

        Args:
            batched_inputs: dicts with `image` (3, h, w), or `file_name` alone; optionally `height` and `width`.

        Returns:
            Per image `{"sem_seg": (C, height, width)}`, the mean of the model's score maps.

        Raises:
            ValueError: the model returns no `sem_seg`.
        """
        return [{"sem_seg": self._mean_scores(inputs)} for inputs in batched_inputs]

    def _mean_scores(self, inputs: dict) -> Tensor:
        image = self._original_image(inputs)
        size = {"height": inputs.get("height", image.shape[0]), "width": inputs.get("width", image.shape[1])}
        total, count = None, 0
        for augmented, flipped in self._augmented(image):
            (result,) = self.model([{**inputs, **size, "image": augmented}])
            if "sem_seg" not in result:
                raise ValueError(
                    f"test-time augmentation averages score maps, but the model returned {sorted(result)} and no "
                    "'sem_seg'; set TEST.SEM_SEG.LABEL_MAPS_ONLY to False"
                )
            scores = result["sem_seg"].flip(-1) if flipped else result["sem_seg"]
            total = scores if total is None else total.add_(scores)
            count += 1
        return total.div_(count)

    def _augmented(self, image: np.ndarray) -> Iterator[tuple[Tensor, bool]]:
        """Yields (3, h, w) images and whether they are mirrored, from (H, W, 3)."""
        for min_size in self.min_sizes:
            resize = ResizeShortestEdge(min_size, self.max_size).get_transform(image)
            resized = torch.from_numpy(resize.apply_image(image).transpose(2, 0, 1).copy())
            yield resized, False
            if self.flip:
                yield resized.flip(-1), True

    def _original_image(self, inputs: dict) -> np.ndarray:
        """The image before the data loader resized it, (H, W, 3): sizes larger than its are not blurred twice."""
        image = inputs.get("image")
        if image is not None:
            wanted = (inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2]))
            if "file_name" not in inputs or tuple(image.shape[1:]) == wanted:
                return image.permute(1, 2, 0).cpu().numpy()
        return read_image(inputs["file_name"], self.image_format)


def build_tta_model(cfg: CfgNode, model: nn.Module) -> SemanticSegmentorWithTTA:
    """Wraps a model in the test-time augmentation of TEST.AUG."""
    return SemanticSegmentorWithTTA(cfg, model)
