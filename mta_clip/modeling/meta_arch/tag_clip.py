"""TagCLIP (TPAMI 2024, arXiv 2304.07547): zero-shot segmentation that knows where to trust the classes it has seen.

Shapes: B images, C classes of the vocabulary, K text rows in use, D joint width of CLIP, H and W = padded input, h and
w = token grid.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.zero_shot import ClassSplit, protocol_from_config
from ..clip import CLIPTextEncoder, build_clip
from ..inference.sliding_window import build_sliding_window
from ..prompt import class_names_from_config
from ..tagclip.class_text import ClassText
from ..tagclip.labels import TrainingLabels
from ..tagclip.losses import TrustyCriterion
from ..tagclip.prompted_encoder import PromptedImageEncoder
from ..tagclip.trusty_head import TrustyHead
from ..tagclip.trusty_scores import check_weighting, trusty_scores
from .base import SegmentationModel


@META_ARCH_REGISTRY.register()
class TagCLIP(SegmentationModel):
    """Prompted CLIP ViT -> class texts and trusty token query the patches -> attention scores are the masks.

    Args:
        backbone: images (B, 3, H, W) -> image token (B, D) and patch map (B, D, h, w).
        head: those and text (K, D) -> mask logits (B, K, h, w) and trusty logits (B, 1, h, w) or None.
        class_text: K names -> text (K, D).
        criterion: logits and labels -> weighted losses.
        labels: numbers label maps as the protocol trains on them; it also knows seen and unseen classes.
        pseudo_labels_from_iter: transductive training is inductive before this iteration.
        trusty_eval: scores weighted by the trusty map at inference: none | seen | unseen | both.
        gamma: subtracted from the probabilities of seen classes at inference.
        compile_networks: compiles image encoder and head at their first call.
        pixel_mean, pixel_std, size_divisibility, sliding_window, label_maps_only, precision: see
            SegmentationModel.

    Raises:
        ValueError: unknown `trusty_eval`, or one that needs the trusty token which the head does not have.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: PromptedImageEncoder,
        head: TrustyHead,
        class_text: nn.Module,
        criterion: TrustyCriterion,
        labels: TrainingLabels,
        pseudo_labels_from_iter: int = 0,
        trusty_eval: str = "both",
        gamma: float = 0.1,
        compile_networks: bool = False,
        **common,
    ):
        super().__init__(**common)
        check_weighting(trusty_eval, has_trusty_map=head.trusty_token is not None)
        self.backbone = backbone
        self.head = head
        self.class_text = class_text
        self.criterion = criterion
        self.labels = labels
        self.split = labels.split
        # What training sees before pseudo-labels start; None if they start at once, or never.
        self.first_labels = labels.inductive() if labels.pseudo_labels and pseudo_labels_from_iter > 0 else None
        self.pseudo_labels_from_iter = pseudo_labels_from_iter
        self.trusty_eval = trusty_eval
        self.gamma = gamma
        self.vocabulary: list[str] | None = None
        if compile_networks:
            self.compile()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node, clip = cfg.MODEL.TAGCLIP, cfg.MODEL.CLIP
        tower = {"name": clip.NAME, "pretrained": clip.PRETRAINED, "quick_gelu": clip.QUICK_GELU}
        backbone = PromptedImageEncoder(
            visual=build_clip(**tower).visual,
            num_prompts=node.NUM_PROMPTS,
            image_size=node.IMAGE_SIZE,
            double_class_embedding=node.DOUBLE_CLASS_EMBEDDING,
            dropout=node.DROPOUT,
        )
        return {
            "backbone": backbone,
            "head": TrustyHead(
                dim=backbone.embed_dim,
                num_heads=node.NHEADS,
                num_layers=node.DEC_LAYERS,
                dropout=node.DROPOUT,
                trusty_token=node.TRUSTY_TOKEN,
                keep_unused=node.KEEP_UNUSED_PARAMETERS,
            ),
            "class_text": ClassText(text_encoder=CLIPTextEncoder(**tower), templates=cfg.MODEL.PROMPT.TEMPLATES),
            "criterion": TrustyCriterion(
                mask_weight=node.MASK_WEIGHT,
                dice_weight=node.DICE_WEIGHT,
                trusty_weight=node.TRUSTY_WEIGHT,
                trusty_loss=node.TRUSTY_LOSS,
            ),
            "labels": TrainingLabels(
                split=ClassSplit(class_names_from_config(cfg), cfg.DATASETS.UNSEEN_CLASSES),
                protocol=protocol_from_config(cfg),
                ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
                pseudo_labels=node.PSEUDO_LABELS,
                trusty_target=node.TRUSTY_TARGET,
            ),
            "pseudo_labels_from_iter": node.PSEUDO_LABELS_FROM_ITER,
            "trusty_eval": node.TRUSTY_EVAL,
            "gamma": node.GAMMA,
            "compile_networks": cfg.MODEL.COMPILE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": backbone.patch_size,
            "sliding_window": build_sliding_window(cfg),
            "label_maps_only": cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY,
            "precision": cfg.TEST.PRECISION,
        }

    def networks(self) -> list[nn.Module]:
        """See SegmentationModel."""
        return [self.backbone, self.head]

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Segments any classes at inference instead of the dataset's; names that were not trained on count as unseen.

        Args:
            names: class names, one output channel each, in this order; None goes back to the dataset's classes.

        Raises:
            ValueError: a name occurs twice, is empty or too long for the text tower.
        """
        if names is not None:
            names = ClassSplit(names).class_names
            self.class_text(names)
        self.vocabulary = names

    def predict(self, images: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Logits at input size of normalised images.

        Args:
            images: (B, 3, H, W).
            names: K class names.

        Returns:
            Mask logits (B, K, H, W), and trusty logits (B, 1, H, W) or None without a trusty token.
        """
        logits = self.head(*self.backbone(images), self.class_text(names))
        masks, trusty = (
            None if x is None else F.interpolate(x.float(), images.shape[-2:], mode="bilinear", align_corners=False)
            for x in logits
        )
        return masks, trusty

    def losses(self, images: Tensor, sem_segs: list[Tensor]) -> dict[str, Tensor]:
        view = self.labels
        if self.first_labels is not None and get_event_storage().iter < self.pseudo_labels_from_iter:
            view = self.first_labels
        originals = _pad_and_stack(sem_segs, images.shape[-2:], view.ignore_label)
        labels = view(originals)
        masks, trusty = self.predict(images, [self.split.class_names[i] for i in view.trained_classes])
        trusty_target = None if trusty is None else view.trusty_target(originals)
        return self.criterion(masks, view.complete(labels, masks), trusty, trusty_target)

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Score maps, and the trusty map behind them.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, C, H, W); with a trusty token (B, C + 1, H, W), the last channel the probability of "seen class here".
        """
        names = self.split.class_names if self.vocabulary is None else self.vocabulary
        trained = {self.split.class_names[i] for i in self.split.seen}
        seen_mask = torch.tensor([name in trained for name in names], device=images.device)
        masks, trusty = self.predict(images, names)
        if trusty is None:
            return trusty_scores(masks.sigmoid(), None, seen_mask, gamma=self.gamma, weighting="none")
        seen_prob = (trusty if self.labels.trusty_target_is_seen else -trusty).sigmoid()
        scores = trusty_scores(masks.sigmoid(), 1 - seen_prob, seen_mask, gamma=self.gamma, weighting=self.trusty_eval)
        return torch.cat([scores, seen_prob], dim=1)

    def named_maps(self, scores: Tensor, label_maps_only: bool) -> dict[str, Tensor]:
        """Adds `trusty` (height, width), the probability that a pixel is of a seen class, to the usual maps."""
        if self.head.trusty_token is None:
            return super().named_maps(scores, label_maps_only)
        return super().named_maps(scores[:-1], label_maps_only) | {"trusty": scores[-1]}


def _pad_and_stack(sem_segs: list[Tensor], size: tuple[int, int], ignore_label: int) -> Tensor:
    """Label maps (h, w) of a batch as (B, H, W), padded at the right and bottom with the ignore label."""
    height, width = size
    padded = [F.pad(x.long(), (0, width - x.shape[1], 0, height - x.shape[0]), value=ignore_label) for x in sem_segs]
    return torch.stack(padded)
