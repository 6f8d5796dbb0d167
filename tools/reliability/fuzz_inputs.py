"""Hostile and broken inputs as Hypothesis strategies.

Each strategy of STRATEGIES draws a recipe: a dict of plain values, from which fuzz_files.py makes the files, always the
same. A recipe that found something is kept as JSON (findings.jsonl) and tried again in the tests.
"""

from typing import Any

from hypothesis import strategies as st

Recipe = dict[str, Any]

# What can happen to the bytes of a file: what, where (share of its length), and how much or which value.
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(("bit", "byte", "cut", "insert", "zeros", "repeat", "start")),
        st.floats(0, 1),
        st.integers(0, 255),
    ),
    max_size=4,
)
FORMATS = {  # the modes of Pillow that each can store
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    ".jpg": ("L", "RGB", "CMYK"),
    ".bmp": ("1", "L", "P", "RGB", "RGBA"),
    ".tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    ".webp": ("RGB", "RGBA"),
    ".gif": ("L", "P"),
    ".ppm": ("L", "RGB"),
}
# 1x1 to a million pixels, with sides of up to 5000.
SIZES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([(1, 1), (1, 5000), (5000, 1), (3, 4999), (257, 255), (1000, 1000)]),
)
NAMES = st.sampled_from(["sky", "tree", "my cat", "شجرة", "עץ", "木", "🌳", "👩‍👩‍👧", "e\u0301", "a;b", "a" * 4000])
ODD_NAMES = st.text(max_size=12) | st.sampled_from([";", " ", "#no", "x\ty"])


def weighted(*chosen: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of several strategies, by weight; `one_of` would take each equally often."""
    return st.sampled_from([strategy for weight, strategy in chosen for _ in range(weight)]).flatmap(lambda one: one)


MAYBE_DAMAGE = weighted((2, st.just([])), (1, DAMAGE))


def _images() -> st.SearchStrategy[Recipe]:
    stored = st.sampled_from([(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes])
    written = st.fixed_dictionaries(
        {"format": stored, "size": SIZES, "orientation": st.integers(0, 9), "seed": st.integers(0, 9)}
        | {
            "damage": MAYBE_DAMAGE,
            "suffix": st.sampled_from(("", *FORMATS)),
            "predict": st.booleans(),
        }
    )
    claims = st.sampled_from(
        [(1, 1), (0, 5), (20_000, 9_000), (2**31 - 1, 2**31 - 1), (65_535, 65_535), (13_000, 13_000)]
    )
    bomb = st.fixed_dictionaries(
        {"bomb": claims, "depth": st.sampled_from((1, 8, 16)), "color": st.sampled_from((0, 2, 3, 4, 6))}
        | {"filled": st.booleans()}
    )
    junk = st.fixed_dictionaries({"junk": st.binary(max_size=200).map(list), "suffix": st.sampled_from(tuple(FORMATS))})
    return weighted((16, written), (3, bomb), (1, junk))


def _label_maps() -> st.SearchStrategy[Recipe]:
    usual = [(".png", "L"), (".png", "P"), (".png", "I;16"), (".tif", "L"), (".bmp", "P")]
    stored = [(suffix, mode) for suffix in (".png", ".tif", ".bmp") for mode in FORMATS[suffix]]
    odd = st.sampled_from([3, 6, 254, 256, 65_535, 2**31 - 1, -1])
    value = weighted((9, st.sampled_from([0, 1, 2, 255])), (1, odd))
    meanings = st.lists(st.tuples(weighted((9, value), (1, st.just(10**12))), value), max_size=3)
    return st.fixed_dictionaries(
        {
            "format": weighted((3, st.sampled_from(usual)), (1, st.sampled_from(stored))),
            "size": SIZES,
            "image_size": weighted((4, st.none()), (1, SIZES)),
            "values": st.lists(value, min_size=1, max_size=6),
            "classes": weighted((3, st.integers(3, 6)), (1, st.sampled_from([1, 2, 300, 70_000]))),
            "ignore_label": weighted((6, st.just(255)), (1, st.sampled_from([0, -1, 65_535, 2**31 - 1, 10**12]))),
            "label_map": weighted((1, st.just([])), (1, meanings)),
            "damage": MAYBE_DAMAGE,
        }
    )


DEFECTS = (
    "none",
    "no label",
    "no image",
    "other size",
    "colours",
    "value",
    "broken image",
    "broken label",
    "empty label",
)
DEFECTS += ("link", "dangling link", "folder as image", "upper case", "two suffixes", "hidden", "odd name")
# Of the folder as a whole.
LAYOUTS = (
    "split",
    "flat",
    "together",
    "no names",
    "no labels",
    "empty",
    "loop",
    "two loops",
    "file",
    "link to itself",
    "swapped",
)


def _folders() -> st.SearchStrategy[Recipe]:
    return st.fixed_dictionaries(
        {
            "layout": weighted(
                (2, st.sampled_from(("split", "flat", "together", "loop"))), (1, st.sampled_from(LAYOUTS))
            ),
            "photos": st.lists(weighted((4, st.just("none")), (1, st.sampled_from(DEFECTS))), max_size=5),
            "classes": st.integers(1, 4),
            "val_share": weighted((4, st.sampled_from([0.0, 0.2])), (1, st.sampled_from([0.99, 1.0, -1.0, 1e9]))),
            "command": st.integers(0, 9).map(lambda drawn: drawn == 0),  # else the same without its picture
        }
    )


VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 10**6, 10**12, -(10**12), 0.0, 0.5, -0.5, 1.0, 1e-30, 1e30, float("nan"), float("inf")),
    *(True, False, None, "", "x", "none", "cpu", "🌳", "a\nb", "../../x", "[1, 2", "{}", "x" * 500),
    *([], [0], [1], [-1], [0, 0], [8, 8], ["x"], [None], [[]], [[1, 2], [3]], [{}], {}, {"a": 1}, [10**9, 10**9]),
)
# Sections of Detectron2 that no model of this project reads: few of their keys are tried.
UNREAD = ("ANCHOR_GENERATOR", "FPN", "KEYPOINT_ON", "LOAD_PROPOSALS", "MASK_ON", "PANOPTIC_FPN", "PROPOSAL_GENERATOR")
UNREAD += (
    "RETINANET",
    "ROI_BOX_CASCADE_HEAD",
    "ROI_BOX_HEAD",
    "ROI_HEADS",
    "ROI_KEYPOINT_HEAD",
    "ROI_MASK_HEAD",
    "RPN",
)


ENTRY_KEYS = ("name", "image_dir", "label_dir", "classes", "ignore_label", "image_suffix", "label_suffix", "label_map")
ENTRY_KEYS += ("colors", "files", "other")  # of DATASETS.FOLDERS
FOLDER_OF_NUMBERS = "DATASETS: {FOLDERS: [{name: a, image_dir: 3, label_dir: 4, classes: 5}]}"
TEXTS = (
    "",
    "[]",
    "3",
    "a: [",
    "a: &a [*a]",
    "? [a]\n: b",
    "a: !!python/name:os.system",
    "\t",
    "%",
    "MODEL: 3",
    "MODEL:",
)
TEXTS += (
    "DATASETS: {FOLDERS: [3]}",
    "DATASETS: {FOLDERS: {a: 1}}",
    "\ufeffSEED: 1",
    "SEED: 1\nSEED: 2",
    "a: 1\n---\nb: 2",
)
TEXTS += ("SEED: 2021-01-01", "1: 2", "MODEL: {CLIP: 3}", "_BASE_: {}", "SOLVER: []", "\x00")
TEXTS += (FOLDER_OF_NUMBERS, "_BASE_: [", "{}")


def config_keys() -> list[str]:
    """All keys of a config, such as "SOLVER.BASE_LR", without most of UNREAD."""
    from mta_clip.config import get_cfg
    from mta_clip.config_values import values

    keys = [key for key, _ in values(get_cfg())]
    unread = [key for key in keys if key.startswith("MODEL.") and key.split(".")[1] in UNREAD]
    return [key for key in keys if key not in unread[5:]]


def _configs() -> st.SearchStrategy[Recipe]:
    key = st.sampled_from(config_keys())
    wrong = st.text(alphabet="ABC._- ", max_size=12) | key.map(lambda name: name[:-1]) | key.map(str.lower)
    values = st.tuples(weighted((12, key), (1, wrong)), st.sampled_from(VALUES)).map(lambda pair: dict([pair]))
    entry = st.tuples(st.sampled_from(ENTRY_KEYS), st.sampled_from(VALUES)).map(lambda pair: dict([pair]))
    bases = st.sampled_from(
        [[], ["itself"], ["each other"], ["missing"], ["folder"], [3], [None], [["itself"]], ["base", "base"]]
    )
    return weighted(
        (12, st.fixed_dictionaries({"values": values, "overrides": st.booleans()})),
        (2, st.fixed_dictionaries({"entry": entry})),
        (1, st.fixed_dictionaries({"bases": bases})),
        (1, st.fixed_dictionaries({"text": st.sampled_from(TEXTS)})),
        (1, st.fixed_dictionaries({"junk": st.binary(max_size=60).map(list)})),
    )


COLORS = ("1 2", "256 0 0", "-1 0 0", "² 1 1", "x")
ENCODINGS = ("utf-16", "latin-1", "cp1251", "shift_jis", "utf-32-le")


def _class_names() -> st.SearchStrategy[Recipe]:
    return st.fixed_dictionaries(
        {
            "names": weighted(
                (2, st.lists(NAMES, min_size=1, max_size=9, unique=True)), (1, st.lists(NAMES | ODD_NAMES))
            ),
            "colors": weighted((4, st.sampled_from(["", "1 2 3"])), (1, st.sampled_from(COLORS))),
            "encoding": weighted((4, st.sampled_from(["utf-8", "utf-8-sig"])), (1, st.sampled_from(ENCODINGS))),
            "newline": st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
            "many": st.sampled_from([0] * 30 + [10_000]),  # numbered names before the others
            "damage": MAYBE_DAMAGE,
        }
    )


def _checkpoints() -> st.SearchStrategy[Recipe]:
    edits = (
        "none",
        "names",
        "shape",
        "huge shape",
        "types",
        "strings",
        "nested",
        "empty",
        "list",
        "nan",
        "module",
        "config",
    )
    return st.fixed_dictionaries(
        {
            "format": st.sampled_from(["zip", "stream", "safetensors", "pickle", "script"]),
            "edit": weighted((2, st.just("none")), (1, st.sampled_from(edits))),
            "kilobytes": weighted((3, st.none()), (1, st.integers(0, 40))),  # cut after these
            "damage": MAYBE_DAMAGE,
            "link": weighted((6, st.just("")), (1, st.sampled_from(["file", "dangling", "itself", "folder"]))),
            "suffix": st.sampled_from([".pth", ".safetensors", ".pkl", ".pt", ""]),
        }
    )


COMMANDS = ("train", "evaluate", "predict", "check", "export", "info")
OPTIONS = (
    "--config-file",
    "--weights",
    "--input",
    "--output",
    "--labels",
    "--alpha",
    "--resume",
    "--overwrite",
    "--data",
)
OPTIONS += (
    "--names",
    "--images",
    "--label-map",
    "--ignore-label",
    "--val-share",
    "--split-seed",
    "--num-gpus",
    "--debugger",
)
OPTIONS += (
    "--machine-rank",
    "--num-machines",
    "--dist-url",
    "--max-restarts",
    "--format",
    "--size",
    "--returns",
    "--workers",
)
OPTIONS += (
    "--vocabulary",
    "--save-labels",
    "--",
    "-x",
    "SEED",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "NO.KEY",
)
WORDS = (
    "",
    "x",
    "-1",
    "0",
    "1e9",
    "nan",
    "gone.png",
    "photo.png",
    "photos",
    "names.txt",
    "config.yaml",
    "model.pth",
    "out",
)
WORDS += (
    "{1: 2}",
    "{",
    "a,b",
    "a,,b",
    "[]",
    "*",
    "**",
    "[",
    "~",
    "/",
    "..",
    "🌳",
    "a" * 5000,
    "\udcff",
    "cuda:9",
    "True",
)
WORDS += (
    "shapes/mta_clip_tiny",
    "own/small",
    "auto",
    "tcp://",
    "labels",
    "open",
    "onnx",
    "../x",
    "photo.png/x",
    "/dev/null",
)


def _command_lines() -> st.SearchStrategy[Recipe]:
    words = st.lists(st.sampled_from(OPTIONS) | st.sampled_from(WORDS), max_size=9)
    named = {"--config-file": "config.yaml", "--weights": "model.pth", "--input": "photo.png", "--output": "out"}
    parts = [[option, file] for option, file in named.items()]
    useful = st.sampled_from([*parts, [word for part in parts for word in part]])
    command = weighted((9, st.sampled_from(COMMANDS)), (1, st.sampled_from(WORDS)))
    return st.fixed_dictionaries({"command": command, "first": st.lists(useful, max_size=2), "words": words})


STRATEGIES = {
    "image": _images,
    "label map": _label_maps,
    "folder": _folders,
    "config": _configs,
    "class names": _class_names,
    "checkpoint": _checkpoints,
    "command line": _command_lines,
}
