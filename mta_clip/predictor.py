"""One image in, its labels out: a trained model for demos, notebooks and services.

`mta_clip.load` makes one from a run's folder and wraps it in a `Segmenter`, which also reads images and keeps no state
between calls. From a config:

    cfg = load_config("configs/shapes/mta_clip_tiny.yaml", ["MODEL.WEIGHTS", "output/demo/model_final.pth"])
    predictor = SegmentationPredictor(cfg)
    prediction = predictor.predict(read_image("street.jpg"))
    predictor.set_vocabulary(["sky", "road", "my cat"])
    predictor.set_other("rest", 0.3)

Shapes: C classes, H and W image size, B images.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from .api.result import Segmentation, check_threshold
from .data.synonyms import are_seen
from .data.transforms import ResizeShortestEdge
from .engine.trained_model import build_for_evaluation, require_weights, with_trained_classes
from .modeling import SegmentationModel
from .modeling.clip import knows_language
from .modeling.inference import AugmentedModel
from .modeling.inference.output import scores_of
from .visualization import class_colors, distinct_colors

logger = logging.getLogger(__name__)


class SegmentationPredictor:
    """Runs a segmentation model on RGB images and draws its predictions.

    `SegmentationPredictor(cfg)` builds the model of a config, with the augmentation of TEST.AUG if that is enabled, and
    loads MODEL.WEIGHTS. With keyword arguments it wraps an existing model.

    Args:
        model: maps `[{"image": (3, H, W), "height": int, "width": int}]` to `[{"sem_seg": (C, H, W)}]` or
            `[{"labels": (H, W), "label_scores": (H, W)}]`.
        class_names: of the C classes that the model predicts.
        colors: RGB 0..255 per class; None: `distinct_colors`.
        unseen_classes: those of the names that were held out of training.
        min_size: length of the shorter image side in the model, in pixels; 0 keeps the size of the image.
        max_size: upper bound of the longer side, in pixels.
        image_format: channel order that the model expects, "RGB" or "BGR".
        knows_language: whether the model's text tower was pretrained on language; if not, other names are guesses.

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
        knows_language: bool = True,
    ):
        self.model = model.eval()
        self.held_out = frozenset(unseen_classes)
        self.model_classes = tuple(class_names)
        self.model_colors = class_colors(len(class_names), colors)
        self.class_names, self.colors = self.model_classes, self.model_colors
        self.other: tuple[str, float] | None = None
        self.resize = ResizeShortestEdge(min_size, max_size)
        self.image_format = image_format
        self.knows_language = knows_language

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a config; for errors see `build_trained_model` and `AugmentedModel`."""
        return cls.arguments(*build_trained_model(cfg))

    @staticmethod
    def arguments(model: nn.Module, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a model and its config, which names the classes."""
        augmented = cfg.TEST.AUG.ENABLED
        return {
            "model": AugmentedModel(cfg, model) if augmented else model,
            "class_names": cfg.MODEL.PROMPT.CLASS_NAMES,
            "colors": cfg.MODEL.CLASS_COLORS or None,
            "unseen_classes": cfg.DATASETS.UNSEEN_CLASSES,
            "min_size": 0 if augmented else cfg.INPUT.MIN_SIZE_TEST,  # AugmentedModel resizes images itself
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "image_format": cfg.INPUT.FORMAT,
            "knows_language": knows_language(cfg),
        }

    @property
    def unseen_classes(self) -> tuple[str, ...]:
        """Names in use that the model was not trained on, in any of their synonyms."""
        seen = are_seen(self.class_names, trained=self.model_classes, held_out=self.held_out)
        return tuple(name for name, known in zip(self.class_names, seen, strict=True) if not known)

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Changes the classes, in label order; those of the training keep their colours. None: all as in training.

        Logs a warning about names that the model's text tower cannot know.

        Raises:
            ValueError: the model cannot compare masks with text, or a name is empty or too long for its text encoder.
        """
        self.model.set_vocabulary(names)
        if names is None:
            self.class_names, self.colors = self.model_classes, self.model_colors
            return
        own = dict(zip(self.model_classes, self.model_colors, strict=True))
        fresh = distinct_colors(len(names), apart_from=self.model_colors)
        self.class_names = tuple(names)
        self.colors = np.stack([own.get(name, color) for name, color in zip(names, fresh, strict=True)])
        if not self.knows_language and self.unseen_classes:
            logger.warning(
                "This model's text tower was not pretrained on language (MODEL.CLIP), so it cannot know what these "
                "names mean: %s. It was trained on: %s",
                ", ".join(self.unseen_classes),
                ", ".join(self.model_classes),
            )

    def set_other(self, name: str, threshold: float) -> None:
        """From now on, pixels whose confidence is below `threshold` get the class `name`; see `Segmentation.reject`.

        Raises:
            ValueError: `threshold` is not in 0..1.
        """
        check_threshold(threshold)
        self.other = name, threshold

    def predict(self, image: NDArray[np.uint8]) -> Segmentation:
        """Segments one image, (H, W, 3) RGB, 0..255; see `predict_batch`."""
        return self.predict_batch([image])[0]

    @torch.no_grad()
    def predict_batch(
        self, images: Sequence[NDArray[np.uint8]], *, label_maps_only: bool | None = None
    ) -> list[Segmentation]:
        """Segments B images, which should have one size after resizing: the model pads smaller ones.

        Args:
            images: B times (H, W, 3) RGB, 0..255.
            label_maps_only: whether results have no scores, so that memory stays bounded on large images; None: as
                TEST.SEM_SEG.LABEL_MAPS_ONLY of the model's config says.

        Raises:
            ValueError: an image has another shape or data type.
        """
        inputs = [{"image": self.resized(image), "height": len(image), "width": image.shape[1]} for image in images]
        if label_maps_only is not None:
            inputs = [entry | {"label_maps_only": label_maps_only} for entry in inputs]
        outputs = self.model(inputs)
        return [self._result(image, output) for image, output in zip(images, outputs, strict=True)]

    def resized(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """An image (H, W, 3) RGB as the model takes it: (3, h, w), 0..255, in its size and channel order.

        Raises:
            ValueError: the image has another shape or data type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected an RGB image (H, W, 3) of type uint8, got {image.shape} of {image.dtype}")
        resized = self.resize.get_transform(image).apply_image(image)
        if self.image_format == "BGR":
            resized = resized[..., ::-1]
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def draw(self, image: NDArray[np.uint8], prediction: Segmentation, *, alpha: float = 0.55) -> Image.Image:
        """The panel of a prediction (see `Segmentation.panel`) with `image` (H, W, 3) uint8 RGB in it."""
        return dataclasses.replace(prediction, image=image).panel(alpha=alpha)

    def _result(self, image: NDArray[np.uint8], output: dict[str, torch.Tensor]) -> Segmentation:
        scores, trusty = output.get("sem_seg"), output.get("trusty")
        labels = output["labels"] if scores is None else scores.argmax(dim=0)
        confidence = output["label_scores"] if scores is None else scores_of(labels, scores)
        result = Segmentation(
            image=image,
            labels=labels.cpu().numpy(),
            class_names=self.class_names,
            colors=self.colors,
            confidence=_to_numpy(confidence.clamp(0, 1)),
            scores=None if scores is None else _to_numpy(scores),
            trusty=None if trusty is None else _to_numpy(trusty),
            unseen_classes=self.unseen_classes,
        )
        return result if self.other is None else result.reject(self.other[0], threshold=self.other[1])


def build_trained_model(cfg: CfgNode) -> tuple[SegmentationModel, CfgNode]:
    """The model of a config, with the weights of MODEL.WEIGHTS, in evaluation mode, and the config with its classes.

    Raises:
        ValueError: MODEL.WEIGHTS is empty, or the config's folders or class names are wrong.
        FileNotFoundError, CheckpointError: see `read_checkpoint`; or the file does not fit the model.
    """
    require_weights(cfg)
    cfg = with_trained_classes(cfg)
    model = build_for_evaluation(cfg).eval()
    if cfg.MODEL.COMPILE:  # the weights are final, so they may become constants of the compiled code
        model.compile(dynamic=False, options={"freezing": True})
    return model, cfg


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()
