"""Who is seen, who is unseen, and which labels training may look at [TagCLIP section 3.1; ZegCLIP].

Shapes: C classes, Cs seen classes, B images, H and W pixels.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

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
