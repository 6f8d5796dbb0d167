"""A second opinion on the class of a mask: that of the frozen CLIP (FC-CLIP, NeurIPS 2023).

Shapes: B images, H and W = padded input, Q masks, h and w = a map of mask logits, C names, S synonyms of these names,
Dt text width.
"""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.synonyms import are_seen
from ..data.zero_shot import held_out_classes
from .clip.mask_pooling import build_mask_pooler
from .clip.towers import build_clip
from .text import PromptLearner
from .text.synonyms import best_of_synonyms
from .text.template import encode_in_templates, template_sets


def join_opinions(class_probs: Tensor, clip_logits: Tensor, exponents: Tensor) -> Tensor:
    """Geometric mean of class probabilities and CLIP's, normalised; the probability of "no object" stays.

    Args:
        class_probs: (B, Q, C) in [0, 1]; with the omitted "no object" they sum to 1.
        clip_logits: (B, Q, C); CLIP's probabilities are their softmax.
        exponents: (C,) in [0, 1], CLIP's share for each name.

    Returns:
        (B, Q, C) float32.
    """
    total, tiny = class_probs.sum(-1, keepdim=True), torch.finfo(torch.float32).tiny
    own = (class_probs / total.clamp_min(tiny)).clamp_min(tiny).log()  # a mask may be of no object for certain
    return torch.lerp(own, clip_logits.float().log_softmax(-1), exponents.expand_as(own)).softmax(-1) * total


class FrozenCLIP(nn.Module):
    """Compares what CLIP sees under each mask with names in hand-written templates.

    The image tower is a copy with its original weights, since that of the model may be trained and has no pooling. It
    is never trained, runs at inference only, and is part of checkpoints: it costs its parameters in memory (RN50 153
    MB, ConvNeXt-Large 799 MB in float32) and a second pass through the image tower.

    Args:
        visual: CLIP's image tower with pooling and projection.
        logit_scale: by which CLIP multiplies cosines.
        pixel_mean: of the model's images, RGB on the scale 0..255.
        pixel_std: likewise.
        clip_mean: of CLIP's images, RGB on the scale 0..1.
        clip_std: likewise.
        templates: see TemplatePrompt; averaged.
        seen_exponent: CLIP's share in the geometric mean for seen names, from 0 to 1.
        unseen_exponent: that for other names.
        held_out: training classes without labels in training; they count as unseen.

    Raises:
        ValueError: an exponent outside [0, 1], an unknown template set, or a tower of a kind that `build_mask_pooler`
            does not know.
    """

    @configurable
    def __init__(
        self,
        *,
        visual: nn.Module,
        logit_scale: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        clip_mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
        clip_std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
        templates: Sequence[str] = ("vild",),
        seen_exponent: float = 0.4,
        unseen_exponent: float = 0.8,
        held_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for key, value in (("SEEN", seen_exponent), ("UNSEEN", unseen_exponent)):
            if not 0 <= value <= 1:
                raise ValueError(f"MODEL.MTA.FROZEN_CLIP.{key}_EXPONENT is {value}, expected a number in 0..1")
        self.templates = tuple(template for chosen in template_sets(templates) for template in chosen)
        self.seen_exponent, self.unseen_exponent = seen_exponent, unseen_exponent
        self.held_out = frozenset(held_out)
        self.pooler = build_mask_pooler(visual)
        self.register_buffer("logit_scale", torch.tensor(float(logit_scale)))
        # from images as the model normalises them to those of CLIP: a factor and an offset
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(-1, 1, 1) for values in (clip_mean, clip_std, pixel_mean, pixel_std)
        )
        self.register_buffer("factor", own_std / 255 / std, persistent=False)
        self.register_buffer("offset", (own_mean / 255 - mean) / std, persistent=False)
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.CLIP, MODEL.MTA.FROZEN_CLIP and DATASETS.

        Raises:
            ValueError: the model has no text, or its towers are named separately; see also `build_clip`.
        """
        if not cfg.MODEL.PROMPT.NAME:
            raise ValueError(
                "MODEL.MTA.FROZEN_CLIP compares masks with text: it needs MODEL.PROMPT.NAME, which is empty"
            )
        if cfg.MODEL.CLIP.IMAGE_NAME or cfg.MODEL.CLIP.TEXT_NAME:
            raise ValueError(
                "MODEL.MTA.FROZEN_CLIP compares the two towers of one CLIP, MODEL.CLIP.NAME: leave "
                "MODEL.CLIP.IMAGE_NAME and TEXT_NAME empty"
            )
        name, pretrained, node = cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.MTA.FROZEN_CLIP
        clip = build_clip(name=name, pretrained=pretrained, quick_gelu=cfg.MODEL.CLIP.QUICK_GELU)
        tag = (open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None) or {}
        return {
            "visual": clip.visual,
            "logit_scale": clip.logit_scale.exp().item(),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "clip_mean": tag.get("mean") or open_clip.OPENAI_DATASET_MEAN,
            "clip_std": tag.get("std") or open_clip.OPENAI_DATASET_STD,
            "templates": node.TEMPLATES,
            "seen_exponent": node.SEEN_EXPONENT,
            "unseen_exponent": node.UNSEEN_EXPONENT,
            "held_out": held_out_classes(cfg),
        }

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """See nn.Module. Always sets evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, mask_logits: Tensor, class_probs: Tensor, prompts: PromptLearner) -> Tensor:
        """Class probabilities (B, Q, C) of masks, joined with CLIP's; see `join_opinions`.

        Args:
            images: (B, 3, H, W), normalised as for the model.
            mask_logits: (B, Q, h, w).
            class_probs: (B, Q, C).
            prompts: its vocabulary, or else its training classes, are the C names; CLIP's text tower is taken from it.
        """
        names = prompts.class_names if prompts.vocabulary is None else prompts.vocabulary
        regions = self.pooler(images * self.factor + self.offset, mask_logits)
        clip_logits = self.logit_scale * self._cosines(regions.float(), names, prompts)
        exponents = self._exponents(names, prompts).to(images.device, non_blocking=True)
        return join_opinions(class_probs, clip_logits, exponents)

    def _cosines(self, regions: Tensor, names: Sequence[str], prompts: PromptLearner) -> Tensor:
        texts, owners = prompts.texts_of(names)
        (text,) = prompts.cached(
            (self.templates, *texts), lambda: encode_in_templates(prompts.text_encoder, texts, self.templates)
        )  # (S, Dt)
        with torch.autocast(regions.device.type, enabled=False):  # CLIP's scale of 100 would amplify rounding
            cosines = F.normalize(regions, dim=-1) @ F.normalize(text.float(), dim=-1).t()
        return best_of_synonyms(cosines, owners, dim=-1)

    def _exponents(self, names: Sequence[str], prompts: PromptLearner) -> Tensor:
        seen = are_seen(names, trained=prompts.class_names, held_out=self.held_out)
        return torch.tensor([self.seen_exponent if known else self.unseen_exponent for known in seen])
