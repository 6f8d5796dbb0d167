import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from miniatures import CONTEXT_IDS

from mta_clip.data.classes import builtin_classes, make_classes, read_classes, short_name
from mta_clip.data.datasets.coco_stuff import CLASS_IDS

COUNTS = {
    "ade20k": 150,
    "ade20k_847": 847,
    "camvid": 11,
    "cityscapes": 19,
    "coco_stuff": 171,
    "pascal_context": 59,
    "pascal_context_459": 459,
    "shapes": 16,
    "voc2012": 20,
}


@pytest.mark.parametrize("name, count", COUNTS.items())
def test_counts_and_colors(name, count):
    classes = builtin_classes(name)
    assert len(classes) == len(set(classes.names)) == count
    assert len(set(classes.colors)) == count - (name == "ade20k")  # the benchmark gives two classes one colour
    assert all(0 <= channel <= 255 for color in classes.colors for channel in color)


def test_ade20k_agrees_with_detectron2():
    """Same order; our name is one of Detectron2's synonyms, but for the ten classes where MMSegmentation's differs."""
    differing = [
        ours
        for ours, synonyms in zip(builtin_classes("ade20k").names, ADE20K_SEM_SEG_CATEGORIES, strict=True)
        if ours not in [name.strip() for name in synonyms.split(",")]
    ]
    assert differing == [
        *("windowpane", "bathtub", "railing", "streetlight", "television receiver", "airplane", "apparel"),
        *("swimming pool", "waterfall", "ashcan"),
    ]


def test_cityscapes_agrees_with_detectron2():
    official = {entry["trainId"]: entry for entry in CITYSCAPES_CATEGORIES if 0 <= entry["trainId"] < 19}
    classes = builtin_classes("cityscapes")
    assert list(classes.names) == [official[k]["name"] for k in range(19)]
    assert [list(color) for color in classes.colors] == [list(official[k]["color"]) for k in range(19)]


def test_coco_stuff_things_agree_with_detectron2():
    things = [entry for entry in COCO_CATEGORIES if entry["isthing"]]
    assert list(builtin_classes("coco_stuff").names[:80]) == [entry["name"] for entry in things]
    assert list(CLASS_IDS) == [entry["id"] for entry in things] + list(range(92, 183))


@pytest.mark.parametrize(
    "dataset, position, name",
    [
        *[("camvid", i, n) for i, n in enumerate(["sky", "building", "pole", "road", "sidewalk", "tree"])],
        *[("camvid", 6, "traffic sign"), ("camvid", 10, "bicyclist")],
        *[("voc2012", 0, "aeroplane"), ("voc2012", 10, "diningtable"), ("voc2012", 19, "tvmonitor")],
        *[("coco_stuff", 80, "banner"), ("coco_stuff", 137, "road"), ("coco_stuff", 170, "wood")],
        *[("pascal_context_459", 0, "accordion"), ("pascal_context_459", 231, "light; lamp")],
        *[
            ("pascal_context_459", 458, "wool"),
            ("ade20k_847", 1, "building; edifice"),
            ("ade20k_847", 844, "gear shift"),
        ],
        *[("pascal_context", 0, "aeroplane"), ("pascal_context", 33, "motorbike"), ("pascal_context", 58, "wood")],
    ],
)
def test_order(dataset, position, name):
    assert builtin_classes(dataset).names[position] == name


def test_classes_of_context_59_are_classes_of_context_459():
    first_names = [name.split("; ")[0] for name in builtin_classes("pascal_context_459").names]
    assert [first_names.index(name) + 1 for name in builtin_classes("pascal_context").names] == list(CONTEXT_IDS)


@pytest.mark.parametrize("name", ["ade20k_847", "pascal_context_459"])
def test_names_of_a_class_are_separated_alike(name):
    for names in builtin_classes(name).names:
        assert names == "; ".join(part.strip() for part in names.split(";")) and "" not in names.split("; ")


def test_a_class_goes_by_its_first_name():
    assert short_name("sofa; couch") == "sofa" == short_name("sofa")


def test_voc_colors():
    assert builtin_classes("voc2012").colors[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    with_background = builtin_classes("voc2012").with_background()
    assert (with_background.names[0], with_background.colors[0]) == ("background", (0, 0, 0))
    assert len(with_background) == 21
    assert builtin_classes("voc2012").with_background("background", "sky").names[0] == "background; sky"


def test_read_classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# two of them\nmy cat\t255 0 10\n\npotted plant\n")
    classes = read_classes(path)
    assert classes.names == ("my cat", "potted plant")
    assert classes.colors[0] == (255, 0, 10)
    assert len(classes.colors[1]) == 3 and np.linalg.norm(np.subtract(*classes.colors)) > 40


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("cat\ndog\ncat\n", r"'cat' occurs twice \(classes 0 and 2\)"),
        ("cat\t255 0\n", r"line 1: expected a colour .* got '255 0'"),
        ("cat\t256 0 0\n", r"line 1: expected a colour"),
        ("route 66\ncat 255 0 0\n", r"line 2: 'cat 255 0 0' ends in a colour; put a tab before it"),
    ],
)
def test_bad_class_lists(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(path)


def test_missing_class_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.txt"):
        read_classes(tmp_path / "no.txt")


def test_wrong_number_of_colors():
    with pytest.raises(ValueError, match="here: 2 class names, but 1 colours"):
        make_classes(["cat", "dog"], [(1, 2, 3)], where="here")


def test_empty_name():
    with pytest.raises(ValueError, match="class 1 has no name"):
        make_classes(["cat", " "], where="here")


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfsky\nroad", b"sky\r\nroad\r\n", "sky\nroad\u2028".encode()])
def test_lines_of_other_editors(tmp_path, data):
    """A byte order mark is no part of the first name, and only line feeds end a line."""
    (tmp_path / "names.txt").write_bytes(data)
    assert read_classes(tmp_path / "names.txt").names == ("sky", "road")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("sky".encode("utf-16"), "is not in UTF-8"),
        ("sky".encode("utf-32-le"), "control characters"),
        ("Straße".encode("latin-1"), "is not in UTF-8"),
        ("sky\t² 0 0".encode(), "a colour as three numbers"),
    ],
)
def test_other_encodings_are_refused(tmp_path, data, message):
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"names\.txt.*{message}"):
        read_classes(tmp_path / "names.txt")


def test_ten_thousand_names():
    names = [f"class {number} 👩\u200d👧 שלום" for number in range(10_000)]
    assert make_classes(names, where="here").names == tuple(names)
