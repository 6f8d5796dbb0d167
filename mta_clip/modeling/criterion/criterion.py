"""The training losses of a mask classification head, with or without text.

Shapes: I supervised predictions (one per decoder layer), B images, Q mask queries, C classes, K = C + 1 (last = no
object), Z contexts, Dm mask embedding width, h and w = a quarter of the padded input.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..averages import mean_over_processes
from ..check_labels import check_labels
from ..outputs import HeadOutput, LayerPrediction
from .mask_losses import PointMaskLoss
from .matcher import HungarianMatcher, Match
from .point_sampling import PointSource, uniform_points
from .similarity_loss import SimilarityLoss, context_imbalance
from .targets import Target

NORMALIZERS = ("num_masks", "class_weight_sum")
IGNORED_PIXELS = ("negative", "excluded")


class MaskTextCriterion(nn.Module):
    """Matches predictions with targets and sums class, mask, dice and similarity losses (Mask2Former; MTA-CLIP, L_sim).

    All predictions are processed together, image by image. Everything runs in float32, even inside autocast.

    Sums over queries or masks are divided by their normaliser averaged over processes. After DistributedDataParallel
    has averaged the gradient, it equals that of one process with the whole batch. (Mask2Former does this for the mask
    losses only; with one process there is no difference.)

    Args:
        num_classes: C.
        class_weight: of loss_ce and of its matching cost.
        mask_weight: of loss_mask and of its matching cost.
        dice_weight: of loss_dice and of its matching cost.
        similarity_weight: weight of loss_sim; 0 leaves it out.
        balance_weight: weight of loss_balance, `context_imbalance` over the images of one process; 0 leaves it out.
        no_object_weight: weight of queries without a target in loss_ce and loss_sim; those with a target have 1.
        num_points: points per mask, in matching and losses.
        oversample_ratio: of the points of the mask losses, see `uncertain_points`.
        importance_sample_ratio: likewise.
        deep_supervision: computes losses on all predictions instead of the last one only.
        supervise_initial: with `deep_supervision`, also on the prediction before the first decoder layer.
        normalizer: divisor of mask and dice losses: num_masks | class_weight_sum (the MTA-CLIP authors' code).
        ignored_pixels: negative (background of every mask) | excluded (points there carry no loss).
        similarity_loss: None for a head without text.
        draw_points: source of random points.

    Raises:
        ValueError: unknown `normalizer` or `ignored_pixels`, or a `balance_weight` without a similarity loss; see also
            HungarianMatcher and PointMaskLoss.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        similarity_weight: float = 1.0,
        balance_weight: float = 0.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        deep_supervision: bool = True,
        supervise_initial: bool = True,
        normalizer: str = "num_masks",
        ignored_pixels: str = "negative",
        similarity_loss: SimilarityLoss | None = None,
        draw_points: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        settings = (("NORMALIZER", normalizer, NORMALIZERS), ("IGNORED_PIXELS", ignored_pixels, IGNORED_PIXELS))
        for key, value, known in settings:
            if value not in known:
                raise ValueError(f"MODEL.MASK_FORMER.{key} is {value!r}, expected one of {known}")
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.similarity_weight = similarity_weight
        self.balance_weight = balance_weight
        self.deep_supervision = deep_supervision
        self.supervise_initial = supervise_initial
        self.normalizer = normalizer
        self.similarity_loss = similarity_loss if similarity_weight else None
        if balance_weight and self.similarity_loss is None:
            raise ValueError(
                f"MODEL.MTA.CONTEXT_BALANCE {balance_weight} balances the contexts of the similarity loss, but there "
                "is none; set it to 0, or MODEL.MTA.SIMILARITY_WEIGHT above 0 and MODEL.PROMPT.NAME"
            )
        exclude = ignored_pixels == "excluded"
        points: dict[str, Any] = {"num_points": num_points, "exclude_ignored": exclude, "draw_points": draw_points}
        self.matcher = HungarianMatcher(
            class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight, **points
        )
        self.mask_loss = PointMaskLoss(
            oversample_ratio=oversample_ratio, importance_sample_ratio=importance_sample_ratio, **points
        )
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)  # part of checkpoints, as in Mask2Former
        self.class_rows = {"empty_weight": (0, 1)}  # see checkpoint/class_rows.py

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments from a config."""
        node, mta = cfg.MODEL.MASK_FORMER, cfg.MODEL.MTA
        similarity_loss = None
        if cfg.MODEL.PROMPT.NAME and mta.SIMILARITY_WEIGHT:
            similarity_loss = SimilarityLoss(kind=mta.SIMILARITY_LOSS)
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "class_weight": node.CLASS_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
            "similarity_weight": mta.SIMILARITY_WEIGHT,
            "balance_weight": mta.CONTEXT_BALANCE,
            "no_object_weight": node.NO_OBJECT_WEIGHT,
            "num_points": node.TRAIN_NUM_POINTS,
            "oversample_ratio": node.OVERSAMPLE_RATIO,
            "importance_sample_ratio": node.IMPORTANCE_SAMPLE_RATIO,
            "deep_supervision": node.DEEP_SUPERVISION,
            "supervise_initial": node.SUPERVISE_INITIAL,
            "normalizer": node.NORMALIZER,
            "ignored_pixels": node.IGNORED_PIXELS,
            "similarity_loss": similarity_loss,
        }

    def forward(
        self,
        output: HeadOutput,
        targets: list[Target],
        temperature: float | Tensor = 1.0,
        *,
        masks_of_step: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Computes the weighted losses.

        Args:
            output: predictions of the head in training mode, that is, of all layers.
            targets: one per image.
            temperature: tau of the similarity loss, above 0; 1 = raw cosines.
            masks_of_step: if these images are one of several equal parts of a step, the number of target masks of each
                image of the step. The mean of the losses over the parts is then the loss of the step.

        Returns:
            Scalars loss_ce, loss_mask, loss_dice and, with text, loss_sim and, with its weight, loss_balance for the
            last prediction; the same with suffix _i for `output.layers[i]` (_0 = before the first decoder layer).

        Raises:
            ValueError: a target's label is not in 0..C-1, the head predicts another number of classes, or it predicts
                no similarity although there is a similarity loss.
        """
        supervised = self._supervised_layers(len(output.layers))
        layers = [output.layers[index] for index in supervised]
        self._check_inputs(layers, targets)
        with torch.autocast(output.mask_features.device.type, enabled=False):
            losses = self._losses(layers, output.mask_features.float(), targets, temperature, masks_of_step)
        last = len(output.layers) - 1
        return {
            name if index == last else f"{name}_{index}": value
            for name, values in losses.items()
            for index, value in zip(supervised, values.unbind(0), strict=True)
        }

    def _supervised_layers(self, num_layers: int) -> list[int]:
        if not self.deep_supervision:
            return [num_layers - 1]
        first = 0 if self.supervise_initial else min(1, num_layers - 1)
        return list(range(first, num_layers))

    def _losses(
        self,
        layers: list[LayerPrediction],
        mask_features: Tensor,
        targets: list[Target],
        temperature: float | Tensor,
        masks_of_step: Sequence[int] | None,
    ) -> dict[str, Tensor]:
        """Weighted losses by name, each (I,)."""
        class_logits = torch.stack([layer.class_logits for layer in layers]).float()
        mask_embed = torch.stack([layer.mask_embed for layer in layers]).float()
        matches = self.matcher(class_logits, mask_embed, mask_features, targets)
        labels = self._matched_labels(class_logits.shape[:3], targets, matches)
        query_weights = self.empty_weight.float()[labels]
        num_masks, weight_sums = self._normalizers(targets, query_weights, masks_of_step)

        cross_entropy = F.cross_entropy(class_logits.flatten(0, 2), labels.flatten(), reduction="none")
        cross_entropy = (cross_entropy.view_as(query_weights) * query_weights).sum((1, 2)) / weight_sums
        mask_divisor = num_masks if self.normalizer == "num_masks" else weight_sums.clamp(min=1.0)
        mask_ce, dice = self.mask_loss(mask_embed, mask_features, targets, matches)
        losses = {
            "loss_ce": self.class_weight * cross_entropy,
            "loss_mask": self.mask_weight * mask_ce / mask_divisor,
            "loss_dice": self.dice_weight * dice / mask_divisor,
        }
        if self.similarity_loss is not None:
            similarities: list[Any] = [layer.similarity for layer in layers]  # checked
            similarity = torch.stack(similarities, dim=1)  # (Z, I, B, Q, K)
            contrast = (self.similarity_loss(similarity, labels, temperature) * query_weights).sum((1, 2))
            losses["loss_sim"] = self.similarity_weight * contrast / weight_sums
            if self.balance_weight:
                losses["loss_balance"] = self.balance_weight * context_imbalance(
                    similarity.float() / temperature, labels
                )
        return losses

    def _matched_labels(self, shape: torch.Size, targets: list[Target], matches: list[Match]) -> Tensor:
        """Labels of all queries, (I, B, Q) int64; C where a query is unmatched."""
        labels = torch.full(shape, self.num_classes, dtype=torch.int64, device="cpu")
        for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
            layer, index = match.matched.nonzero(as_tuple=True)
            labels[layer, image, match.queries[layer, index]] = target["labels"][index]
        return labels.to(self.empty_weight.device, non_blocking=True)

    def _normalizers(
        self, targets: list[Target], query_weights: Tensor, masks_of_step: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Averages over processes and parts: number of masks (a scalar, at least 1), sums of query weights, (I,)."""
        if masks_of_step is None:
            num_masks = sum(len(target["labels"]) for target in targets)
            sums = torch.cat([query_weights.new_full((1,), num_masks), query_weights.sum((1, 2))])
        else:
            # As many queries have a target as there are masks, or all of them: their weights are known in advance.
            layers, _, queries = query_weights.shape
            masks = torch.tensor(masks_of_step, dtype=torch.float32).to(query_weights.device, non_blocking=True)
            matched = masks.clamp(max=queries)
            weights = matched + (queries - matched) * self.empty_weight[-1].float()
            sums = torch.cat([masks.mean()[None], weights.mean().expand(layers)]) * len(targets)
        sums = mean_over_processes(sums)
        # Weights sum to 0 only if no_object_weight is 0 and there are no targets; the dividend is then 0, too.
        return sums[0].clamp(min=1.0), sums[1:].clamp(min=torch.finfo(sums.dtype).eps)

    def _check_inputs(self, layers: list[LayerPrediction], targets: list[Target]) -> None:
        check_labels(torch.cat([target["labels"] for target in targets]), self.num_classes, "targets")
        for layer in layers:
            parts: dict[str, Tensor | None] = {"class logits": layer.class_logits}
            if self.similarity_loss is not None:
                parts["similarity"] = layer.similarity
            for name, part in parts.items():
                if part is None:
                    raise ValueError(
                        "the criterion has a similarity loss, but the head predicts no similarity; set "
                        "MODEL.MTA.SIMILARITY_WEIGHT to 0, or give the model text (MODEL.PROMPT.NAME)"
                    )
                width = part.shape[-1]
                if width != self.num_classes + 1:
                    raise ValueError(
                        f"{name} have {width} columns, expected {self.num_classes + 1}: the "
                        f"{self.num_classes} classes of MODEL.SEM_SEG_HEAD.NUM_CLASSES and no-object"
                    )
