"""One image in, its label map out: a trained model for demos, notebooks and services.

Example:
    cfg = load_config("configs/shapes/mta_clip_tiny.yaml", ["MODEL.WEIGHTS", "output/demo/model_final.pth"])
    predictor = SegmentationPredictor(cfg)
    prediction = predictor.predict(read_image("street.jpg"))
    predictor.set_vocabulary(["sky", "road", "my cat"])

Shapes: C classes, H and W image size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from .data.transforms import ResizeShortestEdge
from .engine.trained_model import build_for_evaluation, with_trained_classes
from .modeling.inference import AugmentedModel
from .visualization import class_colors, distinct_colors, prediction_panel


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one image, at the image's size."""

    labels: NDArray[np.int64]  # (H, W), class indices
    scores: NDArray[np.float32] | None  # (C, H, W), larger is more likely; None if the model returns labels only
    trusty: NDArray[np.float32] | None  # (H, W), probability that a pixel is of a seen class, 0..1; TagCLIP only


class SegmentationPredictor:
    """Runs a segmentation model on single RGB images and draws its predictions.

    `SegmentationPredictor(cfg)` builds the model of a config, with the augmentation of TEST.AUG if that is enabled, and
    loads MODEL.WEIGHTS. With keyword arguments it wraps an existing model.

    Args:
        model: maps `[{"image": (3, H, W), "height": int, "width": int}]` to `[{"sem_seg": (C, H, W)}]` or
            `[{"labels": (H, W)}]`.
        class_names: of the C classes that the model predicts.
        colors: RGB 0..255 per class; None: `distinct_colors`.
        unseen_classes: those of the names that were held out of training.
        min_size: length of the shorter image side in the model, in pixels; 0 keeps the size of the image.
        max_size: upper bound of the longer side, in pixels.
        image_format: channel order that the model expects, "RGB" or "BGR".

    Raises:
        ValueError: `colors` are not one RGB triple per class.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        class_names: Sequence[str],
        colors: Sequence[Sequence[int]] | None = None,
        unseen_classes: Sequence[str] = (),
        min_size: int = 800,
        max_size: int = 1333,
        image_format: str = "RGB",
    ):
        self.model = model.eval()
        self.seen_classes = frozenset(class_names) - frozenset(unseen_classes)
        self.model_classes = tuple(class_names)
        self.model_colors = class_colors(len(class_names), colors)
        self.class_names, self.colors = self.model_classes, self.model_colors
        self.resize = ResizeShortestEdge(min_size, max_size)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a config; for errors see `build_trained_model` and `AugmentedModel`."""
        model, cfg = build_trained_model(cfg)
        augmented = cfg.TEST.AUG.ENABLED
        return {
            "model": AugmentedModel(cfg, model) if augmented else model,
            "class_names": cfg.MODEL.PROMPT.CLASS_NAMES,
            "colors": cfg.MODEL.CLASS_COLORS or None,
            "unseen_classes": cfg.DATASETS.UNSEEN_CLASSES,
            "min_size": 0 if augmented else cfg.INPUT.MIN_SIZE_TEST,  # AugmentedModel resizes images itself
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "image_format": cfg.INPUT.FORMAT,
        }

    @property
    def unseen_classes(self) -> tuple[str, ...]:
        """Names in use that the model was not trained on."""
        return tuple(name for name in self.class_names if name not in self.seen_classes)

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Changes the classes, in label order; those of the training keep their colours. None: all as in training.

        Raises:
            ValueError: the model cannot compare masks with text, or a name is empty or too long for its text encoder.
        """
        self.model.set_vocabulary(names)
        if names is None:
            self.class_names, self.colors = self.model_classes, self.model_colors
            return
        own = dict(zip(self.model_classes, self.model_colors, strict=True))
        fresh = distinct_colors(len(own) + len(names))[len(own) :]
        self.class_names = tuple(names)
        self.colors = np.stack([own.get(name, color) for name, color in zip(names, fresh, strict=True)])

    @torch.no_grad()
    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Segments one image, (H, W, 3) RGB, 0..255.

        Raises:
            ValueError: the image has another shape or data type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected an RGB image (H, W, 3) of type uint8, got {image.shape} of {image.dtype}")
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        if self.image_format == "BGR":
            resized = resized[..., ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        output = self.model([{"image": tensor, "height": height, "width": width}])[0]
        scores = output.get("sem_seg")
        labels = output["labels"] if scores is None else scores.argmax(dim=0)
        return Prediction(labels=_to_numpy(labels), scores=_to_numpy(scores), trusty=_to_numpy(output.get("trusty")))

    def draw(self, image: NDArray[np.uint8], prediction: Prediction, *, alpha: float = 0.55) -> Image.Image:
        """Draws input, overlay, trusty map (if there is one) and legend side by side.

        Args:
            image: (H, W, 3) uint8 RGB, for which the current classes were predicted.
            alpha: share of the label colours in the overlay, 0..1, else a ValueError.
        """
        heatmaps = {} if prediction.trusty is None else {"Trusty map: seen classes": prediction.trusty}
        options = {"alpha": alpha, "unseen": self.unseen_classes, "heatmaps": heatmaps}
        return prediction_panel(image, prediction.labels, self.class_names, self.colors, **options)


def build_trained_model(cfg: CfgNode) -> tuple[nn.Module, CfgNode]:
    """The model of a config, with the weights of MODEL.WEIGHTS, in evaluation mode, and the config with its classes.

    Raises:
        ValueError: MODEL.WEIGHTS is empty, or the config's folders or class names are wrong.
        FileNotFoundError, CheckpointError: see `read_checkpoint`; or the file does not fit the model.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty: name the checkpoint of a trained model, with --weights or in the config"
        )
    cfg = with_trained_classes(cfg)
    model = build_for_evaluation(cfg).eval()
    if cfg.MODEL.COMPILE:  # the weights are final, so they may become constants of the compiled code
        model.compile(dynamic=False, options={"freezing": True})
    return model, cfg


def _to_numpy(tensor: torch.Tensor | None) -> NDArray | None:
    return None if tensor is None else (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
