"""What TagCLIP makes of the labels that it may see: class numbers, pseudo-labels, trusty targets [TagCLIP, 3.1].

Which labels it may see is decided where they are read, in mta_clip/data/zero_shot.py.

Shapes: C classes, B images, H and W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...data.zero_shot import UNLABELLED, ClassSplit, check_protocol
from ..check_labels import check_labels

TRUSTY_TARGETS = ("seen", "unseen")


@torch.no_grad()
def fill_pseudo_labels(labels: Tensor, mask_logits: Tensor, unseen: Sequence[int]) -> Tensor:
    """Gives every UNLABELLED pixel the unseen class that the model itself scores highest there, without a threshold.

    Args:
        labels: (B, H, W) int64, classes, the ignore label and UNLABELLED.
        mask_logits: (B, C, H, W) of the current model in training.
        unseen: indices of the unseen classes.

    Returns:
        (B, H, W) int64 without UNLABELLED; all other values as they were.
    """
    candidates = torch.as_tensor(unseen, device=labels.device)
    best = candidates[mask_logits[:, candidates].argmax(dim=1)]
    return torch.where(labels == UNLABELLED, best, labels)


class TrainingLabels(nn.Module):
    """Label maps as TagCLIP trains on them, by protocol.

    inductive, inductive_released: only seen classes are trained; pixels of unseen ones look like background.
    transductive: all classes are trained; pixels of unseen classes are UNLABELLED and get pseudo-labels. supervised:
    all classes with their labels.

    Args:
        split: seen and unseen classes.
        protocol: inductive | inductive_released | transductive | supervised.
        ignore_label: value of pixels of no class.
        pseudo_labels: transductive only; False hides unseen classes as background although they are trained, which is
            what the released look-up does by mistake.
        trusty_target: seen, the pixels labelled with a seen class; or unseen, the pixels of unseen classes (the
            released code).

    Raises:
        ValueError: unknown protocol or target, one that does not fit the other, or what `check_protocol` refuses.
    """

    def __init__(
        self,
        *,
        split: ClassSplit,
        protocol: str = "inductive",
        ignore_label: int = 255,
        pseudo_labels: bool = True,
        trusty_target: str = "seen",
    ):
        super().__init__()
        check_protocol(protocol, split, ignore_label)
        _check_trusty_target(trusty_target, protocol)
        self.split = split
        self.ignore_label = ignore_label
        self.pseudo_labels = pseudo_labels and protocol == "transductive"
        self.trusty_target_is_seen = trusty_target == "seen"
        self.may_be_unlabelled = protocol == "transductive"
        self.unlabelled = UNLABELLED if self.pseudo_labels else ignore_label  # what UNLABELLED becomes
        inductive = protocol in ("inductive", "inductive_released")
        self.trained_classes = split.seen if inductive else list(range(split.num_classes))
        size = max(256, split.num_classes, ignore_label + 1)
        table = torch.full((size,), ignore_label, dtype=torch.int64)
        table[self.trained_classes] = torch.arange(len(self.trained_classes))
        if protocol == "transductive":
            table[split.unseen] = self.unlabelled
        is_seen = torch.zeros(size, dtype=torch.bool)
        is_seen[split.seen] = True
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("is_seen", is_seen, persistent=False)

    def inductive(self) -> "TrainingLabels":
        """The same split and trusty target, trained inductively on the same label maps."""
        view = TrainingLabels(
            split=self.split,
            protocol="inductive" if self.trusty_target_is_seen else "inductive_released",
            ignore_label=self.ignore_label,
            trusty_target="seen" if self.trusty_target_is_seen else "unseen",
        )
        view.may_be_unlabelled = self.may_be_unlabelled
        return view

    def forward(self, labels: Tensor) -> Tensor:
        """Label maps numbered among the trained classes.

        Args:
            labels: (B, H, W) int64: classes 0..C-1, the ignore label and, in transductive training, UNLABELLED.

        Returns:
            (B, H, W) int64: positions in `trained_classes`, the ignore label and, for pseudo-labels, UNLABELLED.

        Raises:
            ValueError: another value.
        """
        known = (self.ignore_label, UNLABELLED) if self.may_be_unlabelled else (self.ignore_label,)
        check_labels(labels, self.split.num_classes, "sem_seg of the batch", also=known)
        return torch.where(labels == UNLABELLED, self.unlabelled, self.table[labels.clamp(min=0)])

    def complete(self, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Label maps of `forward` with UNLABELLED replaced by pseudo-labels, if the protocol has any."""
        return fill_pseudo_labels(labels, mask_logits, self.split.unseen) if self.pseudo_labels else labels

    def trusty_target(self, labels: Tensor) -> Tensor:
        """What the trusty map should be, from label maps (B, H, W) as given to `forward`: (B, H, W) bool."""
        seen = self.is_seen[labels.clamp(min=0)] & (labels != UNLABELLED)
        return seen if self.trusty_target_is_seen else ~seen & (labels != self.ignore_label)


def _check_trusty_target(trusty_target: str, protocol: str) -> None:
    if trusty_target not in TRUSTY_TARGETS:
        raise ValueError(f"MODEL.TAGCLIP.TRUSTY_TARGET must be one of {TRUSTY_TARGETS}, got {trusty_target!r}")
    if trusty_target == "unseen" and protocol == "inductive":
        raise ValueError(
            "MODEL.TAGCLIP.TRUSTY_TARGET unseen is made from labels of unseen classes, which DATASETS.PROTOCOL "
            "inductive hides; set DATASETS.PROTOCOL inductive_released, like the released code, or TRUSTY_TARGET seen"
        )
    if trusty_target == "seen" and protocol == "inductive_released":
        raise ValueError(
            "DATASETS.PROTOCOL inductive_released keeps labels of unseen classes for MODEL.TAGCLIP.TRUSTY_TARGET "
            "unseen alone, but that is seen; set DATASETS.PROTOCOL inductive, or TRUSTY_TARGET unseen"
        )
