"""Zero-shot training: which classes are held out, and what training may see of their labels.

Shapes: C classes, H and W pixels.
"""

import difflib
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

PROTOCOLS = ("inductive", "inductive_released", "transductive", "supervised")
UNLABELLED = -1  # a pixel of an unseen class, without saying which one


class ClassSplit:
    """Seen and unseen classes of a dataset, by name.

    Args:
        class_names: all C classes, in label order.
        unseen: names held out of training; may be empty.

    Raises:
        ValueError: a name occurs twice, an unseen name is not a class (the message suggests close ones), or no class is
            seen.
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
        """C."""
        return len(self.class_names)


class VisibleLabels:
    """Hides labels of unseen classes from training; the mapper applies it, so it holds for every model.

    inductive: labels of unseen classes become the ignore label. transductive: they all become UNLABELLED.
    inductive_released and supervised: they stay.

    Raises:
        ValueError: see `check_protocol`.
    """

    def __init__(self, *, split: ClassSplit, protocol: str, ignore_label: int) -> None:
        check_protocol(protocol, split, ignore_label)
        self.unseen = split.unseen
        self.protocol = protocol
        self.ignore_label = ignore_label

    def as_read(self, labels: NDArray) -> NDArray:
        """Hides labels, (H, W) of any integer type, before the augmentations, so that no crop can depend on them.

        UNLABELLED does not fit into uint8, so until `finished` the first unseen class stands for it.
        """
        if not self.unseen or self.protocol in ("inductive_released", "supervised"):
            return labels
        shown = self.ignore_label if self.protocol == "inductive" else self.unseen[0]
        return np.where(np.isin(labels, self.unseen), shown, labels).astype(labels.dtype)

    def finished(self, labels: NDArray) -> NDArray:
        """Turns an augmented label map (H, W) int64 into the one that the model gets, (H, W) int64."""
        if self.protocol != "transductive":
            return labels
        return np.where(labels == self.unseen[0], UNLABELLED, labels)


def visible_labels(cfg: CfgNode, dataset_classes: Sequence[str], ignore_label: int) -> VisibleLabels | None:
    """Which labels training may see by DATASETS.PROTOCOL; None if no class is unseen.

    Raises:
        ValueError: see `ClassSplit`, `check_protocol` and `protocol_from_config`.
    """
    protocol = protocol_from_config(cfg)
    if not cfg.DATASETS.UNSEEN_CLASSES and protocol != "transductive":  # names may then repeat, as in some datasets
        return None
    names = [name.strip() for name in cfg.MODEL.PROMPT.CLASS_NAMES or dataset_classes]
    split = ClassSplit(names, cfg.DATASETS.UNSEEN_CLASSES)
    return VisibleLabels(split=split, protocol=protocol, ignore_label=ignore_label)


def check_protocol(protocol: str, split: ClassSplit, ignore_label: int) -> None:
    """Refuses combinations that cannot be trained.

    Raises:
        ValueError: unknown protocol, an ignore label that is also a class index or UNLABELLED, or transductive training
            without an unseen class.
    """
    _check_known(protocol)
    if 0 <= ignore_label < split.num_classes:
        raise ValueError(f"ignore label {ignore_label} is also the label of {split.class_names[ignore_label]!r}")
    if protocol != "transductive":
        return
    if not split.unseen:
        raise ValueError("transductive training needs unseen classes; name them in DATASETS.UNSEEN_CLASSES")
    if ignore_label == UNLABELLED:
        raise ValueError(
            f"ignore label {ignore_label} stands for pixels of unseen classes in transductive training; "
            "choose another one (MODEL.SEM_SEG_HEAD.IGNORE_VALUE and the dataset's), such as 255"
        )


def protocol_from_config(cfg: CfgNode, supported: Sequence[str] = PROTOCOLS) -> str:
    """The value of DATASETS.PROTOCOL, if it is one of those that the model can be trained with.

    Raises:
        ValueError: it is not, or the old key MODEL.TAGCLIP.PROTOCOL is set, which only `load_config` translates.
    """
    protocol, old = cfg.DATASETS.PROTOCOL, cfg.MODEL.TAGCLIP.PROTOCOL
    if old:
        raise ValueError(f"MODEL.TAGCLIP.PROTOCOL is {old!r}, but that key is no longer read; set DATASETS.PROTOCOL")
    _check_known(protocol)
    if protocol not in supported:
        raise ValueError(
            f"DATASETS.PROTOCOL is {protocol!r}, but {cfg.MODEL.META_ARCHITECTURE} supports {' and '.join(supported)} "
            "only: it has no pseudo-labels and no trusty map. Choose one of these, or MODEL.META_ARCHITECTURE TagCLIP"
        )
    return protocol


def held_out_classes(cfg: CfgNode) -> tuple[str, ...]:
    """Classes whose labels training does not see: DATASETS.UNSEEN_CLASSES, unless DATASETS.PROTOCOL is supervised."""
    return () if cfg.DATASETS.PROTOCOL == "supervised" else tuple(cfg.DATASETS.UNSEEN_CLASSES)


def _check_known(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"DATASETS.PROTOCOL must be one of {PROTOCOLS}, got {protocol!r}")
