import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mta_clip.config import get_cfg
from mta_clip.config_loader import load_config
from mta_clip.data import LabelReader, register_folders

NAME = "folder_for_test"


@pytest.fixture
def entry(tmp_path):
    """Two images, one in a subfolder, with label maps; removed from the catalogs afterwards."""
    for name in ("a", "sub/b"):
        for kind, pixels in (("images", np.zeros((4, 5, 3), np.uint8)), ("labels", np.zeros((4, 5), np.uint8))):
            path = tmp_path / kind / f"{name}{'.jpg' if kind == 'images' else '.png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "classes.txt").write_text("lawn\t0 200 0\nflower bed\n")
    yield {
        "name": NAME,
        "image_dir": str(tmp_path / "images"),
        "label_dir": str(tmp_path / "labels"),
        "classes": str(tmp_path / "classes.txt"),
    }
    if NAME in DatasetCatalog.list():
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)


def _register(*entries):
    cfg = get_cfg()
    cfg.DATASETS.FOLDERS = list(entries)
    register_folders(cfg)


def test_pairs_and_metadata(entry):
    _register(entry)
    records = DatasetCatalog.get(NAME)
    assert [record["image_id"] for record in records] == ["a", "sub/b"]
    assert records[1]["file_name"].endswith("images/sub/b.jpg")
    assert records[1]["sem_seg_file_name"].endswith("labels/sub/b.png")
    metadata = MetadataCatalog.get(NAME)
    assert metadata.stuff_classes == ["lawn", "flower bed"]
    assert metadata.stuff_colors[0] == [0, 200, 0]
    assert metadata.ignore_label == 255


def test_from_a_yaml_file(entry, tmp_path):
    path = tmp_path / "config.yaml"
    lines = "".join(f"    {key}: {value}\n" for key, value in entry.items() if key != "name")
    path.write_text(
        f"DATASETS:\n  FOLDERS:\n  - name: {NAME}\n{lines}    label_map: {{0: 7, 9: 0}}\n    ignore_label: 7\n"
    )
    register_folders(load_config(str(path), []))
    assert LabelReader.from_metadata(MetadataCatalog.get(NAME)).label_map == {0: 7, 9: 0}


def test_from_the_command_line(entry):
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.FOLDERS", str([entry])])
    register_folders(cfg)
    assert len(DatasetCatalog.get(NAME)) == 2


def test_names_and_colors_in_the_config(entry):
    _register(entry | {"classes": ["x", "y"], "colors": [[1, 2, 3], [4, 5, 6]]})
    assert MetadataCatalog.get(NAME).stuff_classes == ["x", "y"]
    assert MetadataCatalog.get(NAME).stuff_colors == [[1, 2, 3], [4, 5, 6]]


def test_null_means_the_default(entry):
    _register(entry | dict.fromkeys(("ignore_label", "image_suffix", "label_suffix", "label_map", "colors")))
    assert MetadataCatalog.get(NAME).ignore_label == 255
    assert len(DatasetCatalog.get(NAME)) == 2


def test_suffixes(entry, tmp_path):
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "labels" / "a_rgb.jpg")
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a_mask.png")
    _register(entry | {"image_dir": entry["label_dir"], "image_suffix": "_rgb.jpg", "label_suffix": "_mask.png"})
    assert [record["image_id"] for record in DatasetCatalog.get(NAME)] == ["a"]


def test_only_some_files(entry, tmp_path):
    (tmp_path / "list.txt").write_text("sub/b\n")
    for files in (["sub/b.jpg"], ["sub/b"], str(tmp_path / "list.txt")):
        _register(entry | {"files": files})
        assert [record["image_id"] for record in DatasetCatalog.get(NAME)] == ["sub/b"]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing in this folder: sub/c\.jpg"):
        _register(entry | {"files": ["a.jpg", "sub/c.jpg"]})


def test_registering_again_replaces(entry):
    _register(entry)
    _register(entry | {"classes": ["x", "y", "z"]})
    assert MetadataCatalog.get(NAME).stuff_classes == ["x", "y", "z"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "camvid_sem_seg_val"}, "dataset of this name already"),
        ({"classes": ""}, r"FOLDERS\[0\]: missing keys \['classes'\]"),
        ({"clases": "x"}, r"unknown keys \['clases'\]"),
        ({"classes": ["x", "x"]}, "'x' occurs twice"),
        ({"classes": ["x", "y"], "colors": [[1, 2, 3]]}, "2 class names, but 1 colours"),
        ({"ignore_label": 1}, "folder_for_test.*ignore label 1 is also the index"),
        ({"label_map": {5: 2}}, "turns 5 into 2"),
        ({"classes": 5}, "classes is 5; expected a file or a list"),
        ({"image_dir": 5}, r"FOLDERS\[0\]: image_dir is 5; expected a text"),
        ({"label_map": [1]}, r"label_map is \[1\]; expected a mapping"),
        ({"classes": ["x", 5]}, "classes is .*expected a file or a list of names"),
        ({"files": [{}]}, r"files is \[{}\]; expected"),
        ({"classes": ["x"], "colors": [[1, 2]]}, r"a colour is \[1, 2\]"),
        ({"image_suffix": "_no.jpg"}, r"no images in this folder.*_no\.jpg"),
    ],
)
def test_malformed_entries(entry, change, message):
    with pytest.raises(ValueError, match=message):
        _register(entry | change)


def test_entry_that_is_no_mapping():
    with pytest.raises(ValueError, match="expected a mapping"):
        _register("images")


def test_two_entries_of_one_name(entry):
    with pytest.raises(ValueError, match=r"FOLDERS\[1\]: the name 'folder_for_test' is already used"):
        _register(entry, entry)


@pytest.mark.parametrize("key", ["image_dir", "label_dir", "classes"])
def test_missing_folder_or_list(entry, key):
    with pytest.raises(FileNotFoundError, match="no/such/place"):
        _register(entry | {key: "no/such/place"})
