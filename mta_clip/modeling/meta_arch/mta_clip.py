"""MTA-CLIP (ECCV 2024) and, as the same model without text, Mask2Former (CVPR 2022).

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class, Dt text width,
H and W = padded input.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...data.model_classes import with_classes
from ...data.zero_shot import held_out_classes, protocol_from_config
from ..criterion import MaskTextCriterion, present_labels, targets_from_sem_seg
from ..frozen_clip import FrozenCLIP
from ..inference import MaskScores
from ..mask_classifier import MaskClassifier
from ..outputs import HeadOutput
from ..text import PromptLearner, build_prompt_learner
from .base import SegmentationModel

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class MTACLIP(SegmentationModel):
    """Image encoder -> pixel decoder -> Mask-Text Decoder, with text from learned prompts.

    Held-out classes (DATASETS.UNSEEN_CLASSES, protocol inductive) have no labels in training. Their names remain text
    queries and rows of the linear classifier, both trained as absent, and negatives of the similarity loss. They can
    still be recognised by similarity to their text (MODEL.MTA.CLASSIFIER text).

    Args:
        backbone: images (B, 3, H, W) -> res2..res5.
        sem_seg_head: those features and text (Z, K, Dt) -> HeadOutput.
        criterion: HeadOutput and targets -> weighted losses.
        prompt_learner: turns class names into text (Z, K, Dt); None for a model without text (Mask2Former).
        mask_classifier: predictions of the last layer -> class probabilities, at inference.
        frozen_clip: joins the class probabilities with those of the frozen CLIP, at inference.
        compile_networks: compiles the image encoder, pixel decoder and transformer decoder at their first call.
        channels_last: memory layout of the convolutions' weights.
        **common: arguments of SegmentationModel.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: MaskTextCriterion,
        prompt_learner: PromptLearner | None,
        mask_classifier: MaskClassifier,
        frozen_clip: FrozenCLIP | None = None,
        compile_networks: bool = False,
        channels_last: bool = False,
        **common: Any,
    ):
        super().__init__(**common)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.prompt_learner = prompt_learner
        self.criterion = criterion
        self.mask_classifier = mask_classifier
        self.frozen_clip = frozen_clip
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile_networks:
            self.compile()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments from a config.

        Raises:
            ValueError: see `protocol_from_config`; only inductive and supervised training are supported.
        """
        protocol_from_config(cfg, supported=("inductive", "supervised"))
        cfg = with_classes(cfg)
        if cfg.MODEL.MTA.CLASSIFIER == "linear" and (unseen := held_out_classes(cfg)):
            logger.warning(
                "MODEL.MTA.CLASSIFIER linear does not find classes without labels in training (%s); text could, and "
                "TagCLIP is made for them",
                ", ".join(unseen),
            )
        backbone = build_backbone(cfg)
        return {
            **cls.common_arguments(cfg),
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": MaskTextCriterion(cfg),
            "prompt_learner": build_prompt_learner(cfg),
            "mask_classifier": MaskClassifier(cfg),
            "frozen_clip": FrozenCLIP(cfg) if cfg.MODEL.MTA.FROZEN_CLIP.ENABLED else None,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "compile_networks": cfg.MODEL.COMPILE,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def vocabulary(self) -> list[str] | None:
        """Class names used at inference; None = the training classes."""
        return None if self.prompt_learner is None else self.prompt_learner.vocabulary

    @property
    def takes_names(self) -> bool:
        """Whether the model has learned to compare masks with text; see SegmentationModel."""
        return self.prompt_learner is not None and self.sem_seg_head.compares_text

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Sets the names by which masks are classified at inference, by similarity to their text.

        Args:
            names: any class names, one output channel each, in this order; None restores the training classes.

        Raises:
            ValueError: the model does not compare masks with text, or a name is empty or too long for the text tower.
        """
        if names is not None and not self.takes_names:
            raise ValueError(
                "this model has not learned to compare masks with text (MODEL.PROMPT.NAME is empty or "
                "MODEL.MTA.SIMILARITY_WEIGHT is 0), so it knows only its training classes; use one trained with both"
            )
        if self.prompt_learner is not None:
            self.prompt_learner.set_vocabulary(names)

    def networks(self) -> list[nn.Module]:
        """See SegmentationModel."""
        return [self.backbone, self.sem_seg_head.pixel_decoder, self.sem_seg_head.transformer_decoder]

    def predict_masks(self, images: Tensor) -> HeadOutput:
        """Predictions of the mask queries for normalised, padded images (B, 3, H, W)."""
        text = None if self.prompt_learner is None else self.prompt_learner()
        # Convolutions are faster with channels last, on CPUs and in half precision on GPUs.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return self.sem_seg_head(features, text)

    def losses(self, images: Tensor, labels: Tensor, step_labels: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """See SegmentationModel."""
        output = self.predict_masks(images)  # first: a GPU computes it while the CPU reads the labels
        targets = targets_from_sem_seg(
            list(labels), (images.shape[-2], images.shape[-1]), self.ignore_label, device=images.device
        )
        temperature = 1.0 if self.prompt_learner is None else self.prompt_learner.temperature
        masks = None if step_labels is None else [len(present_labels(x, self.ignore_label)) for x in step_labels]
        losses = self.criterion(output, targets, temperature, masks_of_step=masks)
        if output.pixel_scores is not None:
            losses["loss_pixel_text"] = self.sem_seg_head.pixel_text.loss(
                output.pixel_scores, labels, temperature, self.ignore_label, step_labels
            )
        return losses

    def classified_masks(self, images: Tensor) -> tuple[HeadOutput, Tensor, Tensor]:
        """Predictions, class probabilities (B, Q, C) of the names in use, and mask logits (B, Q, H / 4, W / 4)."""
        output = self.predict_masks(images)
        class_probs, mask_logits = self.mask_classifier(output.final, self.prompt_learner), output.mask_logits()
        if self.frozen_clip is not None:
            class_probs = self.frozen_clip(images, mask_logits, class_probs, self.prompt_learner)
        return output, class_probs, mask_logits

    def predict(self, images: ImageList) -> list[MaskScores]:
        """See SegmentationModel."""
        _, class_probs, mask_logits = self.classified_masks(images.tensor)
        return [
            MaskScores(probs, logits, images.tensor.shape[-2:], size)
            for probs, logits, size in zip(class_probs, mask_logits, images.image_sizes, strict=True)
        ]
