"""The classes of a model: what a config leaves to its training dataset is filled in, so that the config names them.

Datasets that a model is tested on may have other classes: `has_other_classes` and `unseen_classes` compare the names.
"""

import functools
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import get_cfg, value_of
from .synonyms import SEPARATOR, are_seen

# Keys that say all about the classes of a model; they travel with its weights.
CLASS_KEYS = (
    "MODEL.PROMPT.CLASS_NAMES",
    "MODEL.CLASS_COLORS",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    "DATASETS.UNSEEN_CLASSES",
)


def with_classes(cfg: CfgNode) -> CfgNode:
    """A copy of a config whose CLASS_KEYS are filled in from the first dataset of DATASETS.TRAIN.

    Keys that were changed stay: names and colours that are not empty, a number and an ignore label other than the
    default. The datasets of DATASETS.FOLDERS must be registered, unless the config names its classes.

    Returns:
        The copy, frozen if `cfg` is.
    """
    dataset = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    of_dataset = _names_of_dataset(cfg)
    names, head, default = list(cfg.MODEL.PROMPT.CLASS_NAMES) or of_dataset, cfg.MODEL.SEM_SEG_HEAD, _default_head()
    values: dict[str, object] = {"MODEL.PROMPT.CLASS_NAMES": names}
    if names and head.NUM_CLASSES == default.NUM_CLASSES:
        values["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(names)
    if dataset is not None and head.IGNORE_VALUE == default.IGNORE_VALUE:
        values["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"] = dataset.get("ignore_label", default.IGNORE_VALUE)
    if dataset is not None and names and names == of_dataset and not cfg.MODEL.CLASS_COLORS:
        values["MODEL.CLASS_COLORS"] = [list(color) for color in dataset.get("stuff_colors", ())]
    return _with(cfg, values)


def with_classes_of(cfg: CfgNode, trained: CfgNode) -> CfgNode:
    """A copy of a config with the CLASS_KEYS of another one, frozen if `cfg` is."""
    return _with(cfg, {key: value_of(trained, key) for key in CLASS_KEYS})


def has_other_classes(cfg: CfgNode, names: Sequence[str]) -> bool:
    """Whether names differ, or are in another order, from those of the model and from those of its training dataset.

    A model whose classes nothing names is taken to have these.
    """
    own = with_classes(cfg).MODEL.PROMPT.CLASS_NAMES
    return bool(own) and list(names) not in (list(own), _names_of_dataset(cfg))


def unseen_classes(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """Which of the names of a test dataset, or of a vocabulary, count as unseen.

    If they are the model's, DATASETS.UNSEEN_CLASSES; else those that no class with labels in training is called, in any
    of its synonyms. A class may be called as in MODEL.PROMPT.CLASS_NAMES or as in the training dataset.
    """
    own, of_dataset = list(with_classes(cfg).MODEL.PROMPT.CLASS_NAMES), _names_of_dataset(cfg)
    if not has_other_classes(cfg, names):
        called = dict(zip(own, names, strict=False))
        return [called.get(name, name) for name in cfg.DATASETS.UNSEEN_CLASSES]
    both = zip(own, of_dataset if len(of_dataset) == len(own) else own, strict=True)
    held_out = set(cfg.DATASETS.UNSEEN_CLASSES)
    with_labels = [SEPARATOR.join(pair) for pair in both if not held_out.intersection(pair)]
    seen = are_seen(names, trained=with_labels, held_out=held_out)
    return [name for name, known in zip(names, seen, strict=True) if not known]


def _names_of_dataset(cfg: CfgNode) -> list[str]:
    return list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("stuff_classes", ())) if cfg.DATASETS.TRAIN else []


@functools.cache
def _default_head() -> CfgNode:
    return get_cfg().MODEL.SEM_SEG_HEAD


def _with(cfg: CfgNode, values: dict[str, object]) -> CfgNode:
    copy = cfg.clone()
    copy.defrost()
    copy.merge_from_list([item for pair in values.items() for item in pair])
    if cfg.is_frozen():
        copy.freeze()
    return copy
