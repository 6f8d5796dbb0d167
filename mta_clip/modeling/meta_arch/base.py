"""The base of the meta-architectures: turns dataset dicts into losses, or into labels or scores.

At inference: `forward` -> `preprocess` -> `score_maps` (whole images, or windows) -> `predict` of the subclass ->
`make_output`, which reads score maps from top to bottom, resizes them and takes labels.

Shapes: B images, C classes, H and W = an image: before padding in dicts, after padding in batches.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..inference import ScoreMap, SlidingWindow, WindowScores, build_sliding_window, make_output

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _call_by_mode(network: nn.Module, by_mode: dict[bool, Callable], *args: Any, **kwargs: Any) -> Any:
    return by_mode[network.training](*args, **kwargs)


class SegmentationModel(nn.Module):
    """Base of the meta-architectures; a subclass implements `losses`, `predict` and `networks`.

    Args:
        pixel_mean: mean of the three RGB channels, on the scale 0..255.
        pixel_std: their standard deviation, on the same scale.
        ignore_label: value of pixels without a class in label maps.
        size_divisibility: normalised images are padded with zeros, at the right and the bottom, until both sides are
            multiples of it.
        sliding_window: if given, inference scores overlapping windows instead of the whole image.
        label_maps_only: inference returns label maps instead of scores; memory then does not grow with the number of
            classes times that of output pixels.
        precision: dtype of autocast at inference, float32 | bfloat16 | float16; that of training is set outside the
            model.

    Raises:
        ValueError: unknown `precision`.
    """

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        ignore_label: int = 255,
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
        self.ignore_label = ignore_label
        self.sliding_window = sliding_window
        self.label_maps_only = label_maps_only
        self.inference_dtype = PRECISIONS[precision]

    @staticmethod
    def common_arguments(cfg: CfgNode) -> dict:
        """The constructor arguments from a config, except `size_divisibility` and `ignore_label`."""
        return {
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "sliding_window": build_sliding_window(cfg),
            "label_maps_only": cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY,
            "precision": cfg.TEST.PRECISION,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    @property
    def vocabulary(self) -> list[str] | None:
        """Class names used at inference; None = those of the training."""
        return None

    @property
    def takes_names(self) -> bool:
        """Whether `set_vocabulary` takes names besides those of training; by default, if a subclass has its own."""
        return type(self).set_vocabulary is not SegmentationModel.set_vocabulary

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Sets other names for inference, one output channel each; None restores those of the training.

        Raises:
            ValueError: the model knows no other classes than those of its training.
        """
        if names is not None:
            raise ValueError(f"a {type(self).__name__} knows only the classes of its training")

    def losses(self, images: Tensor, labels: Tensor, step_labels: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Weighted scalar losses of one batch, by name; subclasses implement it.

        Args:
            images: (B, 3, H, W), normalised and padded.
            labels: (B, H, W) int64, padded with the ignore label; on the CPU, unless the dataset gave them elsewhere,
                since reading values from a GPU would wait for all that it has to do.
            step_labels: not padded, on any device, if the batch is one of several equal parts of a step: the label maps
                (h, w) of all parts. The mean of the losses over the parts is then the loss of the step.
        """
        raise NotImplementedError

    def predict(self, images: ImageList) -> Sequence[ScoreMap]:
        """Score maps of normalised images, each at its size before padding; subclasses implement it."""
        raise NotImplementedError

    def networks(self) -> list[nn.Module]:
        """The modules that take most of the time; targets, matching and output are not among them."""
        raise NotImplementedError

    def compile(self, *args: Any, dynamic: bool | None = None, **kwargs: Any) -> None:
        """Compiles each network at its first call; the code in between is left out: its shapes change with the labels.

        Training compiles again for each size of images, whatever `dynamic` says: with graphs for any size, Inductor's
        backward pass fails (PyTorch 2.15). All arguments are those of `torch.compile`.
        """
        for network in self.networks():
            by_mode = {
                mode: torch.compile(network._call_impl, *args, dynamic=choice, **kwargs)
                for mode, choice in ((True, False), (False, dynamic))
            }
            network._compiled_call_impl = partial(_call_by_mode, network, by_mode)  # as nn.Module.compile sets it

    def forward(
        self, batched_inputs: list[dict], step_inputs: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions in evaluation.

        Args:
            batched_inputs: one dict per image with `image` (3, H, W) RGB, values 0..255; in training `sem_seg` (H, W)
                int64; optionally `height` and `width`, the output size in pixels (default: that of `image`), and
                `label_maps_only` (default: that of the model).
            step_inputs: in training, if the batch is one of several equal parts of a step: the dicts of all parts.

        Returns:
            In training, weighted scalar losses by name. In evaluation, one dict per image: `sem_seg`, the
            (C, height, width) float32 scores; with `label_maps_only`, `labels`, (height, width) int64, and their
            scores. See `make_output`.

        Raises:
            ValueError: a training image has no label map of its own size.
        """
        if self.training:
            return self._training_losses(batched_inputs, step_inputs)
        with torch.no_grad(), self.inference_precision():
            images = self.preprocess(batched_inputs)
            results = []
            for inputs, score_map in zip(batched_inputs, self.score_maps(images), strict=True):
                height, width = score_map.size
                size = inputs.get("height", height), inputs.get("width", width)
                labels_only = inputs.get("label_maps_only", self.label_maps_only)
                results.append(make_output(score_map, size, label_maps_only=labels_only))
            return results

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """The normalised, padded batch on the model's device, from dicts with `image` (3, H, W) RGB, values 0..255."""
        images = [x["image"].to(self.device, torch.float32, non_blocking=True) for x in batched_inputs]
        return self._stack([(image - self.pixel_mean) / self.pixel_std for image in images])

    def score_maps(self, images: ImageList) -> Iterable[ScoreMap]:
        """Score maps of the images, predicted from whole images or from windows of them."""
        if self.sliding_window is None:
            return self.predict(images)
        # one after the other, as each holds the scores of a row of windows
        return (
            WindowScores(self.sliding_window, lambda crops: self.predict(self._stack(crops)), image) for image in images
        )

    def inference_precision(self) -> torch.autocast:
        """A context manager: autocast to the dtype of inference."""
        reduced = self.inference_dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.inference_dtype if reduced else None, enabled=reduced)

    def _training_losses(self, batched_inputs: list[dict], step_inputs: list[dict] | None) -> dict[str, Tensor]:
        for x in batched_inputs:
            label_map = x.get("sem_seg")
            if label_map is None or label_map.shape != x["image"].shape[-2:]:
                raise ValueError(
                    f"training needs a label map `sem_seg` of the same size as each image; the image is "
                    f"{tuple(x['image'].shape[-2:])}, the label map of {x.get('file_name', 'an image')} is "
                    f"{'missing' if label_map is None else tuple(label_map.shape)}"
                )
        labels = [x["sem_seg"].long() for x in batched_inputs]
        labels = ImageList.from_tensors(labels, self.size_divisibility, pad_value=self.ignore_label)
        images = self.preprocess(batched_inputs).tensor
        if step_inputs is None:
            return self.losses(images, labels.tensor)
        return self.losses(images, labels.tensor, [x["sem_seg"] for x in step_inputs])

    def _stack(self, images: list[Tensor]) -> ImageList:
        """A batch of images (3, H, W), padded with zeros at the right and the bottom."""
        return ImageList.from_tensors(images, self.size_divisibility)
