import re

import numpy as np
import pytest
from PIL import Image

from mta_clip.data import LabelReader, read_image
from mta_clip.data.label_maps import label_map_advice, read_stored_labels


def _save(path, values, mode="L"):
    image = Image.fromarray(np.array(values, np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_reads_indices_whatever_the_mode(tmp_path, mode):
    path = _save(tmp_path / "labels.png", [[0, 1], [2, 255]], mode)
    labels = LabelReader(num_classes=3).read(path, size=(2, 2))
    np.testing.assert_array_equal(labels, [[0, 1], [2, 255]])
    assert labels.dtype == np.uint8


def test_label_map_is_applied_once(tmp_path):
    path = _save(tmp_path / "labels.png", [[0, 1, 2, 3]])
    reader = LabelReader(num_classes=3, label_map={0: 255, 1: 0, 2: 1, 3: 2})
    np.testing.assert_array_equal(reader.read(path), [[255, 0, 1, 2]])


def test_values_beside_those_of_the_label_map_stay(tmp_path):
    path = _save(tmp_path / "labels.png", [[0, 1, 2]])
    np.testing.assert_array_equal(LabelReader(num_classes=3, label_map={0: 255}).read(path), [[255, 1, 2]])


def test_label_map_beyond_the_values_present(tmp_path):
    path = _save(tmp_path / "labels.png", [[0, 1]])
    np.testing.assert_array_equal(LabelReader(num_classes=2, label_map={200: 255}).read(path), [[0, 1]])


def test_more_than_255_classes(tmp_path):
    path = _save(tmp_path / "labels.png", [[0, 846, 65535]], "I;16")
    labels = LabelReader(num_classes=847, ignore_label=65535).read(path)
    np.testing.assert_array_equal(labels, [[0, 846, 65535]])


@pytest.mark.parametrize("value", [3, 254])
def test_out_of_range_names_file_and_value(tmp_path, value):
    path = _save(tmp_path / "odd.png", [[0, value]])
    with pytest.raises(ValueError, match=rf"odd\.png: label value {value} is out of range.*0\.\.2"):
        LabelReader(num_classes=3).read(path)


def test_size_mismatch_names_file_and_sizes(tmp_path):
    path = _save(tmp_path / "small.png", [[0, 1]])
    with pytest.raises(ValueError, match=r"small\.png: the label map is 2x1 pixels, but its image is 3x4"):
        LabelReader(num_classes=3).read(path, size=(4, 3))


def test_colored_label_map(tmp_path):
    path = _save(tmp_path / "rgb.png", np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"rgb\.png.*mode RGB.*one integer per pixel"):
        read_stored_labels(path)


@pytest.mark.parametrize("read", [read_image, read_stored_labels])
@pytest.mark.parametrize("keep", [0, 20, 400])
def test_truncated_or_empty_file(tmp_path, read, keep):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.randint(0, 256, (40, 40), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"broken\.png.*cannot be read"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_stored_labels])
def test_missing_file(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        read(tmp_path / "no.png")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 3, "ignore_label": 2}, "ignore label 2 is also the index"),
        ({"num_classes": 3, "ignore_label": 0}, "ignore label 0 is also the index"),
        ({"num_classes": 3, "label_map": {7: -1}}, "turns 7 into -1"),
        ({"num_classes": 3, "label_map": {7: 3}}, "turns 7 into 3"),
        ({"num_classes": 3, "label_map": {"7": 1}}, "'7' as a stored value"),
        ({"num_classes": 3, "label_map": {-1: 1}}, "-1 as a stored value"),
    ],
)
def test_contradictions(options, message):
    with pytest.raises(ValueError, match=message):
        LabelReader(**options)


def test_limits_of_what_is_allowed(tmp_path):
    for ignore_label in (-1, 3, -(2**31), 2**31 - 1):
        LabelReader(num_classes=3, ignore_label=ignore_label, label_map={0: ignore_label, 9: 0, 8: 2})
    path = _save(tmp_path / "labels.png", [[0, 255]])
    limits = {(255, 255): np.uint8, (256, -1): np.uint8, (257, -1): np.int32, (256, 256): np.int32}
    for (num_classes, ignore_label), dtype in limits.items():
        assert LabelReader(num_classes=num_classes, ignore_label=ignore_label).read(path).dtype == dtype


def test_one_bit_and_its_meaning(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    stored = read_stored_labels(tmp_path / "a.png")
    assert (stored.dtype, stored.tolist()) == (np.uint8, [[1, 0]])


@pytest.mark.parametrize(
    "pixels, advice",
    [
        ({0: 5, 2: 5, 255: 1}, ""),
        ({0: 5, 7: 2}, "^If they mean void, add --label-map '{7: 255}' .*. If they are classes"),
        (
            {0: 5, 3: 2},
            "count from 1, and 0 means void, add --label-map '{0: 255, 1: 0, 2: 1, 3: 2}' .*If .*'{3: 255}' .*Or add",
        ),
        ({0: 5, 100: 2, 200: 9}, "in the order of their names, add --label-map '{0: 0, 100: 1, 200: 2}'"),
        ({0: 5, 9: 0, 255: 1}, ""),  # 9 occurs nowhere
        ({1: 5, 3: 2}, "^If they mean void, add --label-map '{3: 255}' .*. If they are classes"),
        (dict.fromkeys(range(23), 1), "^If they mean void"),
        (dict.fromkeys(range(24), 1), "^24 different values"),
        (dict.fromkeys(range(40), 1), "^40 different values for 3 classes look like colours"),
    ],
)
def test_advice_for_values_that_are_no_classes(pixels, advice):
    given = label_map_advice(pixels, num_classes=3, ignore_label=255)
    assert re.search(advice.replace("{", r"\{"), given) if advice else given == ""


def test_values_of_32_bits(tmp_path):
    values = np.array([[0, 2**31 - 1, -5]], np.int32)
    Image.fromarray(values).save(tmp_path / "labels.tif")
    reader = LabelReader(num_classes=2, label_map={2**31 - 1: 1, 10**12: 255})
    np.testing.assert_array_equal(reader.translate(read_stored_labels(tmp_path / "labels.tif")), [[0, 1, -5]])
    with pytest.raises(ValueError, match="label value -5 is out of range"):
        reader.read(tmp_path / "labels.tif")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_label": 2**31}, "32 bits"),
        ({"ignore_label": -(2**31) - 1}, "32 bits"),
        ({"label_map": {0: "void"}}, "turns 0 into void"),
    ],
)
def test_values_that_no_label_map_can_have(options, message):
    with pytest.raises(ValueError, match=message):
        LabelReader(num_classes=2, **options)
