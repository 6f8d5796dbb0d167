"""Which values the keys of a config may have, beyond the type of their default."""

import logging
import math
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from .config import get_cfg

logger = logging.getLogger(__name__)

_LARGEST = 2**32  # of an integer: beyond all seeds and counts


def _keys(text: str) -> list[str]:
    """Keys from lines of the form `SECTION: NAME NAME ...`."""
    lines = [line.split(": ") for line in text.strip().splitlines()]
    return [f"{section.strip()}.{name}" for section, names in lines for name in names.split()]


_FROM_1 = """
MODEL.MASK_FORMER: NUM_OBJECT_QUERIES HIDDEN_DIM NHEADS DIM_FEEDFORWARD DEC_LAYERS TRAIN_NUM_POINTS OVERSAMPLE_RATIO
MODEL.SEM_SEG_HEAD: CONVS_DIM MASK_DIM NORM_GROUPS TRANSFORMER_ENC_DIM_FEEDFORWARD
MODEL.SEM_SEG_HEAD: DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
MODEL.PROMPT: NUM_CONTEXTS CONTEXT_LENGTH
MODEL.TAGCLIP: IMAGE_SIZE NHEADS DEC_LAYERS
INPUT: MIN_SIZE_TRAIN MAX_SIZE_TRAIN MAX_SIZE_TEST
SOLVER: IMS_PER_BATCH CHECKPOINT_PERIOD LOG_PERIOD REFERENCE_BATCH
TEST.AUG: MIN_SIZES MAX_SIZE
TEST.SLIDING_WINDOW: SIZE STRIDE BATCH
"""
_ABOVE_0 = """
MODEL: PIXEL_STD
MODEL.PROMPT: INIT_STD
MODEL.MTA: TEMPERATURE TEXT_TEMPERATURE
INPUT.CROP: SIZE
SOLVER.CLIP_GRADIENTS: CLIP_VALUE NORM_TYPE
TEST.AUG: RATIOS
TEST.SEM_SEG: BOUNDARY_DILATION
"""
_FROM_0 = """
MODEL.MASK_FORMER: CLASS_WEIGHT MASK_WEIGHT DICE_WEIGHT NO_OBJECT_WEIGHT SIZE_DIVISIBILITY
MODEL.SEM_SEG_HEAD: NUM_CLASSES TRANSFORMER_ENC_LAYERS
MODEL.MTA: SIMILARITY_WEIGHT CONTEXT_BALANCE PIXEL_TEXT_WEIGHT
MODEL.TAGCLIP: NUM_PROMPTS PSEUDO_LABELS_FROM_ITER MASK_WEIGHT DICE_WEIGHT TRUSTY_WEIGHT
INPUT: MIN_SIZE_TEST
DATALOADER: NUM_WORKERS
SOLVER: MAX_ITER BASE_LR WARMUP_ITERS WARMUP_FACTOR BACKBONE_MULTIPLIER POLY_LR_POWER POLY_LR_CONSTANT_ENDING
SOLVER: POLY_LR_MIN WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_EMBED
TEST: EVAL_PERIOD
"""
_SHARE = """
MODEL.CLIP: IMAGE_DROP_PATH
MODEL.MASK_FORMER: DROPOUT IMPORTANCE_SAMPLE_RATIO
MODEL.MTA: ENSEMBLE_WEIGHT
MODEL.MTA.FROZEN_CLIP: SEEN_EXPONENT UNSEEN_EXPONENT
MODEL.TAGCLIP: DROPOUT
INPUT.CROP: SINGLE_CATEGORY_MAX_AREA
"""
# Smallest and largest number; of a list, of each of its numbers.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_keys(_FROM_1), (1, math.inf)),
    **dict.fromkeys(_keys(_ABOVE_0), (math.ulp(0), math.inf)),
    **dict.fromkeys(_keys(_FROM_0), (0, math.inf)),
    **dict.fromkeys(_keys(_SHARE), (0, 1)),
    "DATALOADER.NUM_WORKERS": (0, 1000),
}
# What lists hold whose default is empty.
ITEMS: dict[str, type] = {
    **dict.fromkeys(_keys("MODEL: WEIGHTS_SKIP\nMODEL.PROMPT: INIT_TEMPLATES CLASS_NAMES"), str),
    **dict.fromkeys(_keys("DATASETS: TRAIN TEST UNSEEN_CLASSES"), str),
    **dict.fromkeys(_keys("MODEL: CLASS_COLORS\nSOLVER: WEIGHT_DECAY_BY_NAME"), list),
    "MODEL.CLIP.VIT_FEATURE_BLOCKS": int,
    "TEST.AUG.RATIOS": float,
    "INPUT.CROP.SIZE": float,  # shares of the image with TYPE relative
}
_ACCEPTED = {float: (int, float), list: (list, tuple), tuple: (list, tuple)}
_NAMES = {str: "texts", list: "lists", int: "integers", float: "numbers"}
LENGTHS = dict.fromkeys(_keys("MODEL: PIXEL_MEAN PIXEL_STD"), 3) | dict.fromkeys(
    _keys("MODEL.TAGCLIP: IMAGE_SIZE\nINPUT.CROP: SIZE\nTEST.SLIDING_WINDOW: SIZE STRIDE"), 2
)
NEVER_EMPTY = _keys("INPUT: MIN_SIZE_TRAIN\nMODEL.PROMPT: TEMPLATES\nMODEL.SEM_SEG_HEAD: IN_FEATURES")


def check_values(cfg: CfgNode, where: str) -> None:
    """Raises a ValueError that names the first key with a value that it cannot have; warns if two contradict.

    Args:
        where: what messages call the config.
    """
    defaults = dict(values(get_cfg()))
    for key, value in values(cfg):
        if expected := _expected(key, value, defaults.get(key)):
            raise ValueError(
                f"{key} is {value!r:.60} (in {where or 'the defaults'} or the overrides); expected {expected}"
            )
    shorter, longer = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if shorter > longer:
        logger.warning(
            "INPUT.MIN_SIZE_TEST %d has no effect beyond INPUT.MAX_SIZE_TEST %d, the bound of the longer side: raise "
            "that, too",
            shorter,
            longer,
        )


def values(node: CfgNode, above: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a config, such as "SOLVER.BASE_LR", with their values."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from values(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _expected(key: str, value: Any, default: Any) -> str:
    """What a key should have instead of a value; "" if the value is right."""
    if value is None and default is not None:
        return f"a value such as {default!r:.40}"
    listed = isinstance(value, (list, tuple))
    if listed and len(value) != LENGTHS.get(key, len(value)):
        return f"{LENGTHS[key]} numbers"
    if listed and not value and key in NEVER_EMPTY:
        return "at least one"
    items = list(value) if listed else [value]
    kind = ITEMS.get(key) or (type(default[0]) if listed and default else object)
    if listed and not all(isinstance(item, _ACCEPTED.get(kind, kind)) for item in items):
        return f"a list such as {default!r:.40}" if default else f"a list of {_NAMES[kind]}"
    low, high = RANGES.get(key, (-math.inf, math.inf))
    for number in (item for item in items if isinstance(item, (int, float))):
        if not math.isfinite(number) or abs(number) > _LARGEST:
            return "a number that is finite and not huge"
        if not low <= number <= high:
            bound = f"from {low} on" if low >= 1 or low == 0 else "above 0"
            return f"numbers {bound}" if high == math.inf else f"numbers from {low} to {high}"
    return ""
