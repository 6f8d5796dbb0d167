"""How TagCLIP uses the visible labels: class indices, pseudo-labels, trusty targets [ZegCLIP; TagCLIP's code].

Which labels are visible is decided where they are read, in mta_clip/data/zero_shot.py.

Shapes: C classes, B images, H and W = padded images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data.zero_shot import UNLABELLED, ClassSplit, check_protocol
from ..check_labels import check_labels

TRUSTY_TARGETS = ("seen", "unseen")


@torch.no_grad()
def fill_pseudo_labels(labels: Tensor, mask_logits: Tensor, unseen: Sequence[int]) -> Tensor:
    """Labels every UNLABELLED pixel with the unseen class that the model scores highest there, without a threshold.

    Args:
        labels: (B, H, W) int64: classes 0..C-1, the ignore label and UNLABELLED.
        mask_logits: (B, C, H, W), predictions of the model that is being trained.
        unseen: indices of the unseen classes, at least one.

    Returns:
        (B, H, W) int64 without UNLABELLED; all other values are unchanged.
    """
    candidates = torch.as_tensor(unseen).to(labels.device, non_blocking=True)
    best = candidates[mask_logits[:, candidates].argmax(dim=1)]
    return torch.where(labels == UNLABELLED, best, labels)


class TrainingLabels(nn.Module):
    """Converts label maps into those that TagCLIP trains on, by protocol.

    - inductive, inductive_released: only seen classes are trained; pixels of unseen classes become background.
    - transductive: all classes are trained; pixels of unseen classes are UNLABELLED and get pseudo-labels.
    - supervised: all classes are trained with their labels.

    Args:
        split: seen and unseen classes.
        protocol: inductive | inductive_released | transductive | supervised.
        ignore_label: value of pixels without a class.
        pseudo_labels: applies to transductive training only; False turns unseen classes into background although they
            are trained, as a mistake in the look-up of the released code does.
        trusty_target: seen (pixels labelled with a seen class) | unseen (pixels of unseen classes, as in the released
            code).

    Raises:
        ValueError: unknown `trusty_target`, or one that does not fit the protocol; see also `check_protocol`.
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
        transductive = protocol == "transductive"
        self.shared: dict[str, Any] = {"split": split, "ignore_label": ignore_label, "trusty_target": trusty_target}
        self.split = split
        self.ignore_label = ignore_label
        self.known = (ignore_label, UNLABELLED) if transductive else (ignore_label,)  # labels other than classes
        self.pseudo_labels = pseudo_labels and transductive
        self.hidden = UNLABELLED if self.pseudo_labels else ignore_label  # what pixels of unseen classes become
        self.trusty_target_is_seen = trusty_target == "seen"
        self.trained_classes = split.seen if protocol.startswith("inductive") else list(range(split.num_classes))
        size = max(256, split.num_classes, ignore_label + 1)
        table = torch.full((size,), ignore_label, dtype=torch.int64)
        table[self.trained_classes] = torch.arange(len(self.trained_classes))
        if transductive:
            table[split.unseen] = self.hidden
        is_seen = torch.zeros(size, dtype=torch.bool)
        is_seen[split.seen] = True
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("is_seen", is_seen, persistent=False)

    def inductive(self) -> "TrainingLabels":
        """Labels for inductive training on the same label maps, with the same trusty target."""
        protocol = "inductive" if self.trusty_target_is_seen else "inductive_released"
        view = TrainingLabels(protocol=protocol, **self.shared)
        view.known = self.known
        return view

    def check(self, labels: Tensor) -> None:
        """Raises ValueError if `labels`, best on the CPU, have values that `forward` does not take."""
        check_labels(labels, self.split.num_classes, "sem_seg of the batch", also=self.known)

    def forward(self, labels: Tensor) -> Tensor:
        """Replaces class labels by indices into `trained_classes`; does not check them.

        Args:
            labels: (B, H, W) int64: classes 0..C-1, the ignore label and, in transductive training, UNLABELLED.

        Returns:
            (B, H, W) int64: indices into `trained_classes`, the ignore label and, for pseudo-labels, UNLABELLED.
        """
        return torch.where(labels == UNLABELLED, self.hidden, self.table[labels.clamp(min=0)])

    def trusty_target(self, labels: Tensor) -> Tensor:
        """Target of the trusty map, (B, H, W) bool, from label maps (B, H, W) as given to `forward`."""
        seen = self.is_seen[labels.clamp(min=0)] & (labels != UNLABELLED)
        return seen if self.trusty_target_is_seen else ~seen & (labels != self.ignore_label)


def _check_trusty_target(trusty_target: str, protocol: str) -> None:
    if trusty_target not in TRUSTY_TARGETS:
        raise ValueError(f"MODEL.TAGCLIP.TRUSTY_TARGET must be one of {TRUSTY_TARGETS}, got {trusty_target!r}")
    if trusty_target == "unseen" and protocol == "inductive":
        raise ValueError(
            "MODEL.TAGCLIP.TRUSTY_TARGET unseen needs labels of unseen classes, which DATASETS.PROTOCOL "
            "inductive hides; set DATASETS.PROTOCOL inductive_released, as in the released code, or TRUSTY_TARGET seen"
        )
    if trusty_target == "seen" and protocol == "inductive_released":
        raise ValueError(
            "DATASETS.PROTOCOL inductive_released keeps labels of unseen classes only for MODEL.TAGCLIP.TRUSTY_TARGET "
            "unseen, but TRUSTY_TARGET is seen; set DATASETS.PROTOCOL inductive, or TRUSTY_TARGET unseen"
        )
