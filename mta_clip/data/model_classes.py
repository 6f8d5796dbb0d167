"""The classes of a model: what a config leaves to its training dataset is filled in, so that the config names them."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

# Keys that say all about the classes of a model; they travel with its weights.
CLASS_KEYS = (
    "MODEL.PROMPT.CLASS_NAMES",
    "MODEL.CLASS_COLORS",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    "DATASETS.UNSEEN_CLASSES",
)
DEFAULT_IGNORE_LABEL = 255


def with_classes(cfg: CfgNode) -> CfgNode:
    """A copy of a config whose CLASS_KEYS are filled in from the first dataset of DATASETS.TRAIN where they are empty.

    The datasets of DATASETS.FOLDERS must be registered, unless the config names its classes.

    Returns:
        The copy, frozen if `cfg` is. NUM_CLASSES stays 0 if nothing tells the classes; see `unknown_classes`.
    """
    names, head = list(cfg.MODEL.PROMPT.CLASS_NAMES), cfg.MODEL.SEM_SEG_HEAD
    dataset = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    of_dataset = [] if dataset is None else list(dataset.get("stuff_classes", ()))
    names = names or of_dataset
    values = {
        "MODEL.PROMPT.CLASS_NAMES": names,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": head.NUM_CLASSES or len(names),
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": head.IGNORE_VALUE,
    }
    if head.IGNORE_VALUE < 0:
        ignore = DEFAULT_IGNORE_LABEL if dataset is None else dataset.get("ignore_label", DEFAULT_IGNORE_LABEL)
        values["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"] = ignore
    if names and names == of_dataset and not cfg.MODEL.CLASS_COLORS:
        values["MODEL.CLASS_COLORS"] = [list(color) for color in dataset.get("stuff_colors", ())]
    return _with(cfg, values)


def unknown_classes(cfg: CfgNode) -> ValueError:
    """The error of a model that needs to know its classes and cannot."""
    train = cfg.DATASETS.TRAIN
    where = f"dataset {train[0]!r} has no `stuff_classes` in its metadata" if train else "DATASETS.TRAIN is empty"
    return ValueError(f"class names are needed, but MODEL.PROMPT.CLASS_NAMES is empty and {where}: set either of them")


def with_classes_of(cfg: CfgNode, trained: CfgNode) -> CfgNode:
    """A copy of a config with the CLASS_KEYS of another one, frozen if `cfg` is."""
    return _with(cfg, {key: _value(trained, key) for key in CLASS_KEYS})


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
