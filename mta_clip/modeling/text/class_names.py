"""Reads the class names of a config and checks them.

Shapes: C classes.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from detectron2.config import CfgNode

from ...data.model_classes import with_classes
from ...data.synonyms import split_synonyms

logger = logging.getLogger(__name__)


def clean_class_names(class_names: Sequence[str]) -> list[str]:
    """The names without white space around them; logs a warning if a name occurs more than once.

    Raises:
        ValueError: there are no names, or one is empty or has an empty synonym.
    """
    names = [name.strip() for name in class_names]
    if not names:
        raise ValueError("no class names given; at least one is needed")
    if "" in names:
        raise ValueError(f"class name {names.index('')} is empty: {list(class_names)}")
    for name in names:
        split_synonyms(name)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        logger.warning(
            f"these class names occur more than once and therefore have the same text: {', '.join(repeated)}"
        )
    return names


def class_names_from_config(cfg: CfgNode) -> list[str]:
    """The C class names, of MODEL.PROMPT.CLASS_NAMES or, if that is empty, of the first training dataset.

    Raises:
        ValueError: there are no names, their number is not MODEL.SEM_SEG_HEAD.NUM_CLASSES, or one is empty.
    """
    cfg = with_classes(cfg)
    if not cfg.MODEL.PROMPT.CLASS_NAMES:
        train = cfg.DATASETS.TRAIN
        where = f"dataset {train[0]!r} has no `stuff_classes` in its metadata" if train else "DATASETS.TRAIN is empty"
        raise ValueError(
            f"class names are needed, but MODEL.PROMPT.CLASS_NAMES is empty and {where}: set either of them"
        )
    names, expected = cfg.MODEL.PROMPT.CLASS_NAMES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(names) != expected:
        raise ValueError(
            f"{len(names)} class names (MODEL.PROMPT.CLASS_NAMES, or `stuff_classes` of the training dataset), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}; leave it out, and it is the number of names"
        )
    return clean_class_names(names)
