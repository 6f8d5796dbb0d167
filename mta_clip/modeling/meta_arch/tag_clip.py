"""TagCLIP (TPAMI 2024, arXiv 2304.07547): zero-shot segmentation that predicts where seen classes can be trusted.

Shapes: B images, C classes of the vocabulary, Dt width of text features (CLIP's joint space), H and W = padded input,
h and w = patch grid.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.model_classes import with_classes
from ...data.synonyms import are_seen
from ...data.zero_shot import ClassSplit, protocol_from_config
from ..tagclip.labels import TrainingLabels, fill_pseudo_labels
from ..tagclip.losses import TrustyCriterion, class_targets
from ..tagclip.prompted_encoder import PromptedImageEncoder
from ..tagclip.trusty_head import TrustyHead
from ..tagclip.trusty_scores import TrustyScores, check_weighting
from ..text import PromptLearner, TemplatePrompt
from ..text.synonyms import best_of_synonyms
from .base import SegmentationModel


@META_ARCH_REGISTRY.register()
class TagCLIP(SegmentationModel):
    """Prompted CLIP ViT -> cross-attention of class texts and trusty token to the patches -> its scores are the masks.

    Args:
        backbone: images (B, 3, H, W) -> image token (B, Dt) and patch map (B, Dt, h, w).
        head: both of these and text (C, Dt) -> mask logits (B, C, h, w) and trusty logits (B, 1, h, w) or None.
        class_text: turns class names into text (C, Dt).
        criterion: logits and labels -> weighted losses.
        labels: maps labels to the classes that the protocol trains; also holds the split into seen and unseen classes.
        pseudo_labels_from_iter: before this iteration transductive training runs as inductive training.
        trusty_eval: classes whose scores are weighted by the trusty map at inference: none | seen | unseen | both.
        gamma: subtracted from the probabilities of seen classes at inference.
        compile_networks: compiles the image encoder and the head at their first call.
        channels_last: memory layout of the convolutions' weights.
        **common: arguments of SegmentationModel, except `ignore_label`.

    Raises:
        ValueError: unknown `trusty_eval`, or one that needs a trusty token if the head has none.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: PromptedImageEncoder,
        head: TrustyHead,
        class_text: PromptLearner,
        criterion: TrustyCriterion,
        labels: TrainingLabels,
        pseudo_labels_from_iter: int = 0,
        trusty_eval: str = "both",
        gamma: float = 0.1,
        compile_networks: bool = False,
        channels_last: bool = False,
        **common: Any,
    ):
        super().__init__(ignore_label=labels.ignore_label, **common)
        check_weighting(trusty_eval, has_trusty_map=head.trusty_token is not None)
        self.backbone = backbone
        self.head = head
        self.class_text = class_text
        self.criterion = criterion
        self.labels = labels
        self.split = labels.split
        # Labels in use before pseudo-labels start; None if they start at once, or never.
        self.first_labels = labels.inductive() if labels.pseudo_labels and pseudo_labels_from_iter > 0 else None
        self.pseudo_labels_from_iter = pseudo_labels_from_iter
        self.trusty_eval = trusty_eval
        self.gamma = gamma
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile_networks:
            self.compile()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments from a config.

        Raises:
            ValueError: text and image features differ in width.
        """
        cfg = with_classes(cfg)
        node = cfg.MODEL.TAGCLIP
        backbone = build_backbone(cfg)
        head = build_sem_seg_head(cfg, backbone.output_shape())
        class_text = TemplatePrompt(cfg, learn_temperature=False)  # no loss would train it
        if class_text.text_dim != (width := backbone.output_shape()["patch_map"].channels):
            raise ValueError(
                f"MODEL.CLIP.TEXT_NAME: TagCLIP needs text in the image tower's space, of width {width}, but this text "
                f"tower has {class_text.text_dim}; leave it '', or name one that was trained with the image tower"
            )
        return {
            **cls.common_arguments(cfg),
            "size_divisibility": backbone.size_divisibility,
            "backbone": backbone,
            "head": head,
            "class_text": class_text,
            "criterion": TrustyCriterion(
                mask_weight=node.MASK_WEIGHT,
                dice_weight=node.DICE_WEIGHT,
                trusty_weight=node.TRUSTY_WEIGHT,
                trusty_loss=node.TRUSTY_LOSS,
            ),
            "labels": TrainingLabels(
                split=ClassSplit(class_text.class_names, cfg.DATASETS.UNSEEN_CLASSES),
                protocol=protocol_from_config(cfg),
                ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
                pseudo_labels=node.PSEUDO_LABELS,
                trusty_target=node.TRUSTY_TARGET,
            ),
            "pseudo_labels_from_iter": node.PSEUDO_LABELS_FROM_ITER,
            "trusty_eval": node.TRUSTY_EVAL,
            "gamma": node.GAMMA,
            "compile_networks": cfg.MODEL.COMPILE,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def vocabulary(self) -> list[str] | None:
        """Class names used at inference; None = those of the dataset."""
        return self.class_text.vocabulary

    @property
    def names(self) -> Sequence[str]:
        """The class names in use at inference."""
        return self.split.class_names if self.vocabulary is None else self.vocabulary

    def seen_mask(self, names: Sequence[str]) -> Tensor:
        """Which of these names were trained on, in any of their synonyms: (K,) bool for K names."""
        trained = self.split.class_names
        held_out = [trained[i] for i in self.split.unseen]
        seen = torch.tensor(are_seen(names, trained=trained, held_out=held_out))
        return seen.to(self.device, non_blocking=True)

    def networks(self) -> list[nn.Module]:
        """See SegmentationModel."""
        return [self.backbone, self.head]

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Sets the classes to segment at inference; names that were not trained on count as unseen.

        Args:
            names: any class names, one output channel each, in this order; None restores the classes of the dataset.

        Raises:
            ValueError: a name occurs twice, is empty, or is too long for the text encoder.
        """
        self.class_text.set_vocabulary(None if names is None else ClassSplit(names).class_names)

    def logits(self, images: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Computes logits on the patch grid.

        Args:
            images: (B, 3, H, W), normalised.
            names: C class names.

        Returns:
            Mask logits (B, C, h, w), and trusty logits (B, 1, h, w) or None without a trusty token.
        """
        texts, owners = self.class_text.texts_of(names)
        masks, trusty = self.head(*self.backbone(images), self.class_text.ensemble(texts))
        return best_of_synonyms(masks, owners, dim=1), trusty

    def losses(self, images: Tensor, labels: Tensor, step_labels: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """See SegmentationModel. With pseudo-labels, which are not known before, each part of a step is by itself."""
        view = self.labels
        if self.first_labels is not None and get_event_storage().iter < self.pseudo_labels_from_iter:
            view = self.first_labels
        masks, trusty = self.logits(images, [self.split.class_names[i] for i in view.trained_classes])
        view.check(labels)  # here: a GPU computes the logits while the CPU reads the labels
        labels = labels.to(images.device, non_blocking=True)
        visible = view(labels)
        enlarge = partial(F.interpolate, size=images.shape[-2:], mode="bilinear", align_corners=False)
        masks, trusty = enlarge(masks.float()), None if trusty is None else enlarge(trusty.float())
        trusty_target = None if trusty is None else view.trusty_target(labels)
        present = None
        if view.pseudo_labels:
            visible = fill_pseudo_labels(visible, masks, self.split.unseen)
        elif step_labels is not None:
            maps = (view(x[None].to(labels, non_blocking=True)) for x in step_labels)
            per_image = torch.stack([class_targets(x, masks.shape[1]).flatten(2).any(-1).sum() for x in maps])
            present = per_image.float().mean() * len(images)
        return self.criterion(masks, visible, trusty, trusty_target, num_present=present)

    def predict(self, images: ImageList) -> list[TrustyScores]:
        """See SegmentationModel."""
        names = self.names
        masks, trusty = self.logits(images.tensor, names)
        if trusty is not None and not self.labels.trusty_target_is_seen:
            trusty = -trusty
        options = {
            "size": images.tensor.shape[-2:],
            "seen_mask": self.seen_mask(names),
            "gamma": self.gamma,
            "weighting": self.trusty_eval,
        }
        return [
            TrustyScores(mask_logits, None if trusty is None else trusty[image], crop=size, **options)
            for image, (mask_logits, size) in enumerate(zip(masks, images.image_sizes, strict=True))
        ]
