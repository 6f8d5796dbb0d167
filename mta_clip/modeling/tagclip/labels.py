"""Who is seen, who is unseen, and which labels training may look at [TagCLIP section 3.1; ZegCLIP].

Shapes: C classes, Cs seen classes, B images, H and W pixels.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PROTOCOLS = ("inductive", "transductive", "supervised")
TRUSTY_TARGETS = ("seen", "unseen")
UNLABELLED = -1  # a pixel of some unseen class: known to be there, not known which


class ClassSplit:
    """Seen and unseen classes of a dataset, by name.

    Args:
        class_names: all C classes, in label order.
        unseen: names held out of training; may be empty.

    Raises:
        ValueError: a name occurs twice, an unseen name is no class (the closest ones are named), or no class is seen.
    """

    def __init__(self, class_names: Sequence[str], unseen: Sequence[str] = ()):
        self.class_names, unseen = list(class_names), list(unseen)
        for what, names in (("class names", self.class_names), ("unseen classes", unseen)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} must be unique, but these occur more than once: {twice}")
        for name in unseen:
            if name not in self.class_names:
                close = difflib.get_close_matches(name, self.class_names, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"classes: {self.class_names}"
                raise ValueError(f"DATASETS.UNSEEN_CLASSES names {name!r}, which is no class of the dataset; {hint}")
        self.seen = [i for i, name in enumerate(self.class_names) if name not in unseen]
        self.unseen = [i for i, name in enumerate(self.class_names) if name in unseen]
        if not self.seen:
            raise ValueError(
                f"all {len(self.class_names)} classes are unseen, so there is nothing to train on; "
                "shorten DATASETS.UNSEEN_CLASSES"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def seen_mask(self) -> Tensor:
        """(C,) bool, True at seen classes."""
        mask = torch.ones(self.num_classes, dtype=torch.bool)
        mask[self.unseen] = False
        return mask

    def seen_table(self, ignore_label: int) -> Tensor:
        """Look-up of inductive training: seen classes to their position among the seen, all else to `ignore_label`."""
        table = self._empty_table(ignore_label)
        table[self.seen] = torch.arange(len(self.seen))
        return table

    def full_table(self, ignore_label: int, unseen_label: int | None = None) -> Tensor:
        """Look-up that keeps class numbers: seen classes to themselves, other values to `ignore_label`.

        Args:
            ignore_label: value of pixels of no class.
            unseen_label: what unseen classes become: UNLABELLED for pseudo-labels, `ignore_label` to hide them, None
                to keep them (fully supervised training).
        """
        table = self._empty_table(ignore_label)
        table[self.seen] = torch.tensor(self.seen)
        if self.unseen:
            table[self.unseen] = torch.tensor(self.unseen) if unseen_label is None else unseen_label
        return table

    def _empty_table(self, ignore_label: int) -> Tensor:
        if 0 <= ignore_label < self.num_classes:
            raise ValueError(f"ignore label {ignore_label} is also the label of {self.class_names[ignore_label]!r}")
        return torch.full((max(256, self.num_classes, ignore_label + 1),), ignore_label, dtype=torch.int64)


def check_labels(labels: Tensor, num_classes: int, ignore_label: int) -> None:
    """Refuses label maps with values that are neither a class nor the ignore label.

    Raises:
        ValueError: names the values found.
    """
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if wrong.any():
        values = labels[wrong].unique().tolist()
        raise ValueError(
            f"label maps hold {values[:10]}, but there are classes 0..{num_classes - 1} and the ignore label "
            f"{ignore_label}; check the dataset's label encoding and MODEL.SEM_SEG_HEAD.IGNORE_VALUE"
        )


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
    """What a protocol lets training see of a label map.

    inductive: only seen classes are trained; pixels of unseen ones look like background. transductive: all classes are
    trained; pixels of unseen classes are known to be unlabelled and get pseudo-labels. supervised: all classes with
    their labels.

    Args:
        split: seen and unseen classes.
        protocol: inductive | transductive | supervised.
        ignore_label: value of pixels of no class.
        pseudo_labels: transductive only; False hides unseen classes as background although they are trained, which is
            what the released look-up does by mistake.
        trusty_target: seen, the pixels labelled with a seen class; or unseen, the pixels of unseen classes, read off
            labels that inductive training must not know (the released code).

    Raises:
        ValueError: unknown protocol or target, or pseudo-labels without an unseen class.
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
        if protocol not in PROTOCOLS:
            raise ValueError(f"MODEL.TAGCLIP.PROTOCOL must be one of {PROTOCOLS}, got {protocol!r}")
        if trusty_target not in TRUSTY_TARGETS:
            raise ValueError(f"MODEL.TAGCLIP.TRUSTY_TARGET must be one of {TRUSTY_TARGETS}, got {trusty_target!r}")
        if protocol == "transductive" and not split.unseen:
            raise ValueError("transductive training needs unseen classes; name them in DATASETS.UNSEEN_CLASSES")
        self.split = split
        self.ignore_label = ignore_label
        self.pseudo_labels = pseudo_labels and protocol == "transductive"
        self.trusty_target_is_seen = trusty_target == "seen"
        self.trained_classes = split.seen if protocol == "inductive" else list(range(split.num_classes))
        if protocol == "inductive":
            table = split.seen_table(ignore_label)
        else:
            hidden = UNLABELLED if pseudo_labels else ignore_label
            table = split.full_table(ignore_label, None if protocol == "supervised" else hidden)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("seen_table", split.seen_table(ignore_label), persistent=False)

    def inductive(self) -> "TrainingLabels":
        """The same split and trusty target under the inductive protocol."""
        return TrainingLabels(
            split=self.split,
            ignore_label=self.ignore_label,
            trusty_target="seen" if self.trusty_target_is_seen else "unseen",
        )

    def forward(self, labels: Tensor) -> Tensor:
        """Label maps as training may see them, numbered among the trained classes.

        Args:
            labels: (B, H, W) int64, classes 0..C-1 and the ignore label.

        Returns:
            (B, H, W) int64: trained classes, the ignore label and, for pseudo-labels, UNLABELLED.

        Raises:
            ValueError: another value.
        """
        check_labels(labels, self.split.num_classes, self.ignore_label)
        return self.table[labels]

    def complete(self, labels: Tensor, mask_logits: Tensor) -> Tensor:
        """Label maps of `forward` with UNLABELLED replaced by pseudo-labels, if the protocol has any."""
        return fill_pseudo_labels(labels, mask_logits, self.split.unseen) if self.pseudo_labels else labels

    def trusty_target(self, labels: Tensor) -> Tensor:
        """What the trusty map should be, from original label maps (B, H, W): (B, H, W) bool."""
        if self.trusty_target_is_seen:
            return self.seen_table[labels] != self.ignore_label
        return (self.seen_table[labels] == self.ignore_label) & (labels != self.ignore_label)
