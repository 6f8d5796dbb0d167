"""Reads the class names of a config and checks them.

Shapes: C classes.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

logger = logging.getLogger(__name__)


def clean_class_names(class_names: Sequence[str]) -> list[str]:
    """Strips white space around names; logs a warning if a name occurs more than once.

    Returns:
        The names, in the same order.

    Raises:
        ValueError: there are no names, or one is empty.
    """
    names = [name.strip() for name in class_names]
    if not names:
        raise ValueError("no class names given; at least one is needed")
    if "" in names:
        raise ValueError(f"class name {names.index('')} is empty: {list(class_names)}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        logger.warning(
            f"these class names occur more than once and therefore have the same text: {', '.join(repeated)}"
        )
    return names


def class_names_from_config(cfg: CfgNode) -> list[str]:
    """The C class names: MODEL.PROMPT.CLASS_NAMES or, if that is empty, `stuff_classes` of the first training dataset.

    Raises:
        ValueError: there are no names, their number is not MODEL.SEM_SEG_HEAD.NUM_CLASSES, or one is empty.
    """
    names, source = list(cfg.MODEL.PROMPT.CLASS_NAMES), "MODEL.PROMPT.CLASS_NAMES"
    if not names:
        if not cfg.DATASETS.TRAIN:
            raise ValueError(
                "class names are needed: set MODEL.PROMPT.CLASS_NAMES, or DATASETS.TRAIN to use the names of a dataset"
            )
        dataset = cfg.DATASETS.TRAIN[0]
        names, source = MetadataCatalog.get(dataset).get("stuff_classes") or [], f"stuff_classes of dataset {dataset!r}"
        if not names:
            raise ValueError(
                f"dataset {dataset!r} has no `stuff_classes` in its metadata: set MODEL.PROMPT.CLASS_NAMES"
            )
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(names) != expected:
        raise ValueError(
            f"{source}: {len(names)} class names, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}; they must agree"
        )
    return clean_class_names(names)
