"""The classes of a model: what a config leaves to its training dataset is filled in, so that the config names them."""

import functools

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import get_cfg

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
    of_dataset = [] if dataset is None else list(dataset.get("stuff_classes", ()))
    names, head, default = list(cfg.MODEL.PROMPT.CLASS_NAMES) or of_dataset, cfg.MODEL.SEM_SEG_HEAD, _default_head()
    values = {"MODEL.PROMPT.CLASS_NAMES": names}
    if names and head.NUM_CLASSES == default.NUM_CLASSES:
        values["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(names)
    if dataset is not None and head.IGNORE_VALUE == default.IGNORE_VALUE:
        values["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"] = dataset.get("ignore_label", default.IGNORE_VALUE)
    if names and names == of_dataset and not cfg.MODEL.CLASS_COLORS:
        values["MODEL.CLASS_COLORS"] = [list(color) for color in dataset.get("stuff_colors", ())]
    return _with(cfg, values)


def with_classes_of(cfg: CfgNode, trained: CfgNode) -> CfgNode:
    """A copy of a config with the CLASS_KEYS of another one, frozen if `cfg` is."""
    return _with(cfg, {key: _value(trained, key) for key in CLASS_KEYS})


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


def _value(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
