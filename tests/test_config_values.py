import pytest

from mta_clip.config import get_cfg, value_of
from mta_clip.config_loader import load_config
from mta_clip.config_values import ITEMS, LENGTHS, NEVER_EMPTY, RANGES, check_values


def test_the_defaults_are_right_and_every_rule_is_about_a_key():
    check_values(get_cfg(), "")
    for key in (*RANGES, *ITEMS, *LENGTHS, *NEVER_EMPTY):
        value_of(get_cfg(), key)


@pytest.mark.parametrize("key", RANGES)
def test_numbers_out_of_range_are_refused(key):
    cfg, (low, high) = get_cfg(), RANGES[key]
    *sections, name = key.split(".")
    node = value_of(cfg, ".".join(sections))
    default = node[name]

    def put(number):
        node[name] = [number] * (len(default) or 1) if isinstance(default, (list, tuple)) else number

    first = default[0] if isinstance(default, (list, tuple)) and default else default
    put(int(low) + 1 if isinstance(first, int) else min(low + 0.5, high))
    check_values(cfg, "")
    for wrong in (low - 1, 2 * high) if high < 1e9 else (low - 1,):
        put(wrong)
        with pytest.raises(ValueError, match=rf"^{key} is .*expected (a list such as|numbers)"):
            check_values(cfg, "")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SOLVER.BASE_LR", "1e999", "a number that is finite"),
        ("SEED", "1000000000000", "not huge"),
        ("MODEL.MASK_FORMER.NHEADS", "None", "a value such as 8"),
        ("MODEL.PIXEL_STD", "[1.0]", "3 numbers"),
        ("MODEL.PIXEL_STD", "[{}, 1.0, 1.0]", "a list such as .58"),
        ("DATASETS.UNSEEN_CLASSES", "[8]", "a list of texts"),
        ("MODEL.CLASS_COLORS", "[8]", "a list of lists"),
        ("MODEL.CLIP.VIT_FEATURE_BLOCKS", "['x']", "a list of integers"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "at least one"),
        ("MODEL.MASK_FORMER.DROPOUT", "1.5", "numbers from 0 to 1"),
        ("INPUT.CROP.SIZE", "[0, 0]", "numbers above 0"),
    ],
)
def test_wrong_values_are_named(key, value, expected):
    with pytest.raises(ValueError, match=rf"^{key} is .* \(in the defaults or the overrides\); expected .*{expected}"):
        load_config("", [key, value])


@pytest.mark.parametrize(
    ("key", "value"),
    [("INPUT.CROP.SIZE", "[0.5, 1]"), ("TEST.AUG.RATIOS", "[1, 0.5]"), ("MODEL.CLASS_COLORS", "[(1, 2, 3)]")],
)
def test_right_values_pass(key, value):
    load_config("", [key, value])


def test_a_shorter_side_beyond_the_bound_of_the_longer(caplog):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 480
    check_values(cfg, "")
    assert not caplog.text
    cfg.INPUT.MIN_SIZE_TEST = 560
    check_values(cfg, "")
    assert "MIN_SIZE_TEST 560 has no effect beyond INPUT.MAX_SIZE_TEST 480" in caplog.text
