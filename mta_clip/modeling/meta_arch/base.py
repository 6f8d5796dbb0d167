"""What every semantic segmentor here shares: normalise, pad, score (whole image or windows), resize.

Shapes: B images, C classes, H and W = padded input, h and w = one image before padding.
"""

from collections.abc import Iterable, Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.sliding_window import Scores, SlidingWindow
from ..inference.strips import join_strips, prediction, resize_strips

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SegmentationModel(nn.Module):
    """Base of the meta-architectures; a subclass says how it computes losses and scores, and which its networks are.

    Args:
        pixel_mean, pixel_std: of the three RGB channels, on the scale 0..255.
        size_divisibility: images are padded, with zeros after normalisation and at the right and bottom, until both
            sides are a multiple of it.
        sliding_window: scores overlapping windows instead of the whole image at inference.
        label_maps_only: inference returns label maps instead of score maps, computed strip by strip, so memory does
            not grow with classes times output pixels.
        precision: of autocast at inference, float32 | bfloat16 | float16; training has its own, outside of the model.

    Raises:
        ValueError: unknown `precision`.
    """

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        sliding_window: SlidingWindow | None = None,
        label_maps_only: bool = False,
        precision: str = "float32",
    ):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"TEST.PRECISION is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.sliding_window = sliding_window
        self.label_maps_only = label_maps_only
        self.inference_dtype = PRECISIONS[precision]

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def losses(self, images: Tensor, sem_segs: list[Tensor]) -> dict[str, Tensor]:
        """Weighted scalar losses of one batch.

        Args:
            images: (B, 3, H, W), normalised and padded.
            sem_segs: per image its label map, (h, w) int64.
        """
        raise NotImplementedError

    def scores(self, images: Tensor) -> Tensor:
        """Score maps (B, C, H, W) of normalised images (B, 3, H, W) whose sides are divisible as required."""
        raise NotImplementedError

    def networks(self) -> list[nn.Module]:
        """The modules that take the time, without what lies between them: targets, matching, output."""
        raise NotImplementedError

    def autocast_modules(self) -> list[nn.Module]:
        """Modules whose linear layers and convolutions, except under `full_precision`, run inside autocast."""
        return []

    def compile(self, *args, **kwargs) -> None:
        """`nn.Module.compile` of each of the networks; what lies between them changes its shapes with the labels."""
        for network in self.networks():
            network.compile(*args, **kwargs)

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised, padded batch on the model's device from dicts with `image` (3, h, w), RGB, 0..255."""
        images = [
            (x["image"].to(self.device, torch.float32) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions in evaluation.

        Args:
            batched_inputs: per image a dict with `image` (3, h, w) RGB 0..255; in training `sem_seg` (h, w) int64;
                optionally `height` and `width`, the wanted output size (default: that of `image`).

        Returns:
            In training, weighted scalar losses by name. In evaluation, per image `{"sem_seg": (C, height, width)}`,
            float scores; with `label_maps_only`, `{"labels": (height, width)}`, int64.
        """
        if not self.training:
            return self.segment(batched_inputs, label_maps_only=self.label_maps_only)
        missing = [x.get("file_name", "?") for x in batched_inputs if "sem_seg" not in x]
        if missing:
            raise ValueError(f"training needs a label map `sem_seg` for every image; without one: {missing}")
        images = self.preprocess(batched_inputs)
        return self.losses(images.tensor, [x["sem_seg"].to(self.device) for x in batched_inputs])

    @torch.no_grad()
    def segment(self, batched_inputs: list[dict], *, label_maps_only: bool) -> list[dict[str, Tensor]]:
        """What `forward` returns in evaluation, but label maps or scores as asked for, not as the model is set."""
        images = self.preprocess(batched_inputs)
        reduced = self.inference_dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.inference_dtype if reduced else None, enabled=reduced):
            return self.inference(batched_inputs, images, label_maps_only)

    def inference(
        self, batched_inputs: list[dict], images: ImageList, label_maps_only: bool
    ) -> list[dict[str, Tensor]]:
        """Predictions for a preprocessed batch; see `forward`."""
        if self.sliding_window is None:
            maps = zip(self.scores(images.tensor), images.image_sizes, strict=True)
            score_strips = [[score_map[:, :h, :w]] for score_map, (h, w) in maps]
        else:
            score_strips = [self.sliding_window.strips(self.window_scores, image) for image in images]
        results = []
        for inputs, strips, (h, w) in zip(batched_inputs, score_strips, images.image_sizes, strict=True):
            output_size = inputs.get("height", h), inputs.get("width", w)
            resized = resize_strips(strips, (h, w), output_size)
            results.append(join_strips((self.named_maps(strip, label_maps_only) for strip in resized), output_size))
        return results

    def named_maps(self, scores: Tensor, label_maps_only: bool) -> dict[str, Tensor]:
        """What `forward` returns, for some rows (C, r, width) of the resized score map."""
        return prediction(scores, label_maps_only)

    def window_scores(self, images: Tensor) -> Iterable[Scores]:
        """What is summed up over windows: scores of each of the images, of any size, whole or in blocks of rows."""
        return self.padded_scores(images)

    def padded_scores(self, images: Tensor) -> Tensor:
        """`scores` for images of any size: pads to the divisibility, crops the result."""
        h, w = images.shape[-2:]
        return self.scores(self.pad(images))[..., :h, :w]

    def pad(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) with zeros at the right and below, so that the sides are divisible."""
        h, w = images.shape[-2:]
        divisor = max(self.size_divisibility, 1)
        return F.pad(images, (0, -w % divisor, 0, -h % divisor))
