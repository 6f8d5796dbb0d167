"""From a dataset dict to the input of a model: read, augment, pad. The model makes masks from the label map itself."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform
from torch import Tensor

from .image_files import read_image
from .label_maps import LabelReader
from .transforms import ResizeShortestEdge
from .zero_shot import VisibleLabels, visible_labels

GREY = (128, 128, 128)  # padded image pixels [Mask2Former's mapper]


class SemanticDatasetMapper:
    """Reads and augments one image and, in training, its label map.

    Training follows Mask2Former's semantic mapper: resize the shorter side, crop, jitter colours, flip, pad. Testing
    only resizes; the evaluator reads the label maps itself, at full size.

    Args:
        is_train: whether label maps are read and images padded.
        augmentations: Detectron2 augmentations, applied in this order.
        label_reader: of the training dataset; not needed for testing.
        pad_to: training images with a side shorter than this, in pixels, are padded to it at the right and bottom, with
            `pad_color` in the image and the ignore label in the label map. 0 or less: no padding.
        pad_color: of padded pixels, one value of 0..255 per channel; those of the model's mean are zero after
            normalisation. With fractions, padded images are float32.
        image_format: order of the channels, "RGB" or "BGR".
        visible_labels: which labels training may see; applied as label maps are read, so that nothing, not even the
            choice of crops, can depend on the others. None: all.

    Raises:
        ValueError: training without a label reader.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | Transform],
        label_reader: LabelReader | None = None,
        pad_to: int = 0,
        pad_color: Sequence[float] = GREY,
        image_format: str = "RGB",
        visible_labels: VisibleLabels | None = None,
    ) -> None:
        if is_train and label_reader is None:
            raise ValueError("SemanticDatasetMapper needs a label_reader for training.")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.label_reader: LabelReader = label_reader  # type: ignore[assignment]  # used in training only
        self.pad_to = pad_to
        color = torch.tensor(pad_color, dtype=torch.float32).view(3, 1, 1)
        self.pad_color = color.byte() if torch.equal(color, color.byte().float()) else color
        self.image_format = image_format
        self.visible_labels = visible_labels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """The arguments above, from a config.

        Raises:
            ValueError: INPUT.RANDOM_FLIP, INPUT.PADDING or DATASETS.PROTOCOL is unknown, or see `ClassSplit` and
                `check_protocol`.
        """
        if not is_train:
            resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
            return {"is_train": False, "augmentations": [resize], "image_format": cfg.INPUT.FORMAT}
        if cfg.INPUT.PADDING not in ("grey", "mean"):
            raise ValueError(f"INPUT.PADDING is {cfg.INPUT.PADDING!r}; expected grey or mean.")
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        label_reader = LabelReader.from_metadata(metadata)
        return {
            "is_train": True,
            "augmentations": training_augmentations(cfg, ignore_label=label_reader.ignore_label),
            "label_reader": label_reader,
            "pad_to": cfg.INPUT.SIZE_DIVISIBILITY,
            "pad_color": GREY if cfg.INPUT.PADDING == "grey" else cfg.MODEL.PIXEL_MEAN,
            "image_format": cfg.INPUT.FORMAT,
            "visible_labels": visible_labels(cfg, metadata.stuff_classes, label_reader.ignore_label),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Reads and transforms one sample.

        Args:
            dataset_dict: has `file_name` and, in training, `sem_seg_file_name`.

        Returns:
            A copy with `image` (3, H, W) uint8 (or float32, see `pad_color`), `height` and `width` of the image file in
            pixels and, in training, `sem_seg` (H, W) int64 of class indices, the ignore label and, in transductive
            training, UNLABELLED.

        Raises:
            FileNotFoundError, ValueError: see `read_image` and `LabelReader.read`.
        """
        sample = copy.deepcopy(dataset_dict)
        image = read_image(sample["file_name"], image_format=self.image_format)
        sample["height"], sample["width"] = image.shape[:2]
        labels = None
        if self.is_train:
            labels = self.label_reader.read(sample["sem_seg_file_name"], size=image.shape[:2])
            if self.visible_labels:
                labels = self.visible_labels.as_read(labels)
            if labels.dtype != np.uint8:
                labels = labels.astype(np.float32)  # Detectron2 resizes uint8 or floats; exact up to 2**24
        augmented = T.AugInput(image, sem_seg=labels)
        self.augmentations(augmented)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            labels = augmented.sem_seg.astype(np.int64, order="C")  # a flipped map of one column has a negative stride
            if self.visible_labels:
                labels = self.visible_labels.finished(labels)
            sample["sem_seg"] = torch.from_numpy(labels)
            self._pad(sample)
        return sample

    def _pad(self, sample: dict[str, Tensor]) -> None:
        height, width = sample["image"].shape[-2:]
        # A crop may be longer than `pad_to` along one side: padding must not become negative, which would cut it.
        right, bottom = max(self.pad_to - width, 0), max(self.pad_to - height, 0)
        if right or bottom:
            padded = self.pad_color.repeat(1, height + bottom, width + right)
            padded[:, :height, :width] = sample["image"]
            sample["image"] = padded
            sample["sem_seg"] = F.pad(sample["sem_seg"], (0, right, 0, bottom), value=self.label_reader.ignore_label)


def training_augmentations(cfg: CfgNode, *, ignore_label: int) -> list[T.Augmentation | Transform]:
    """Resize, crop, colour jitter and flip as the INPUT section says, in Mask2Former's order.

    The ignore label does not count as a class when crops are chosen.

    Raises:
        ValueError: INPUT.RANDOM_FLIP is not one of none, horizontal, vertical; INPUT.MIN_SIZE_TRAIN_SAMPLING is not
            one of choice, range; or a range has not two ends.
    """
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling not in ("choice", "range") or (sampling == "range" and len(sizes) != 2):
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes} and INPUT.MIN_SIZE_TRAIN_SAMPLING {sampling!r}; expected any number of "
            "sizes and choice, or the two ends of a range and range."
        )
    augmentations: list[T.Augmentation | Transform] = [ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(
                cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA, ignore_label
            )
        )
    if cfg.INPUT.COLOR_AUG_SSD:
        from detectron2.projects.point_rend import ColorAugSSDTransform  # which imports all models

        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    flip = cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical"):
        raise ValueError(f"INPUT.RANDOM_FLIP is {flip!r}; expected none, horizontal or vertical.")
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentations
