from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mta_clip.data.classes import builtin_classes
from mta_clip.data.datasets.catalog import data_root, pair_folders, pair_listed, read_names, register_sem_seg


@pytest.fixture
def folders(tmp_path):
    """Folders `images` and `labels` with two pairs, one of them in a subfolder, as {kind: path}."""
    for name in ("images/a.jpg", "images/sub/b.JPEG", "labels/a.png", "labels/sub/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return {"image_dir": tmp_path / "images", "label_dir": tmp_path / "labels"}


def test_pairs_of_the_same_relative_name(folders):
    records = pair_folders(**folders)
    assert [record["image_id"] for record in records] == ["a", "sub/b"]
    assert records[1]["file_name"] == str(folders["image_dir"] / "sub/b.JPEG")
    assert records[1]["sem_seg_file_name"] == str(folders["label_dir"] / "sub/b.png")


def test_suffixes_tell_images_from_label_maps_in_one_folder(folders):
    folder = folders["image_dir"]
    for name in ("c_image.png", "c_truth.png"):
        (folder / name).touch()
    (record,) = pair_folders(folder, folder, image_suffix="_image.png", label_suffix="_truth.png")
    assert record["image_id"] == "c" and record["sem_seg_file_name"] == str(folder / "c_truth.png")
    with pytest.raises(ValueError, match=r"no images in this folder \(expected \*_photo\.png\)"):
        pair_folders(folder, folder, image_suffix="_photo.png")


def test_a_folder_without_images(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: there are no images in this folder \(expected \*\.jpg, "):
        pair_folders(tmp_path / "empty", folders["label_dir"])


@pytest.mark.parametrize("missing", ["image_dir", "label_dir"])
def test_a_missing_folder_is_named_with_what_to_do(folders, missing):
    with pytest.raises(FileNotFoundError, match=r"gone: this folder does not exist\. .*DETECTRON2_DATASETS"):
        pair_folders(**{**folders, missing: folders[missing].with_name("gone")})


def test_image_without_label_map(folders):
    (folders["label_dir"] / "sub" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels: 1 of 2 label maps are missing in this folder: sub/b\.png"):
        pair_folders(**folders)
    (folders["label_dir"] / "a.png").rename(folders["label_dir"] / "a_mask.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png: this .* nor does any other of the 2; .*such as a_mask\.png"):
        pair_folders(**folders)


def test_label_map_without_image_is_only_a_warning(folders, caplog):
    (folders["image_dir"] / "a.jpg").unlink()
    assert len(pair_folders(**folders)) == 1
    assert "1 label maps" in caplog.text and "a.png" in caplog.text


def test_two_images_of_one_name(folders):
    (folders["image_dir"] / "a.png").touch()
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png have the same name"):
        pair_folders(**folders)


def test_hidden_files_are_no_images(folders):
    (folders["image_dir"] / "._a.jpg").write_bytes(b"resource fork")
    assert len(pair_folders(**folders)) == 2


def test_listed_pairs(tmp_path):
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        (tmp_path / kind).mkdir()
        for name in ("a", "b"):
            (tmp_path / kind / f"{name}{suffix}").touch()
    listed = tmp_path / "list.txt"
    listed.write_text("b\na -1\n")
    records = pair_listed(tmp_path / "images", tmp_path / "labels", listed)
    assert [record["image_id"] for record in records] == ["b", "a"]
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"images: 1 of 2 images are missing in this folder: a\.jpg"):
        pair_listed(tmp_path / "images", tmp_path / "labels", listed)


def test_names_of_a_list(tmp_path):
    listed = tmp_path / "list.txt"
    with pytest.raises(FileNotFoundError, match=r"list\.txt: this list of images does not exist"):
        read_names(listed)
    listed.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_names(listed)
    listed.write_text("b 1\n\n a\n")
    assert read_names(listed) == ["b", "a"]
    for name in ("../a", "/a", "b/../../a"):
        listed.write_text(f"b\n{name}\n")
        with pytest.raises(ValueError, match=rf"list\.txt: the name '{name}' leads out of the folder"):
            read_names(listed)


def test_the_root_is_read_at_every_call(datasets_root, monkeypatch):
    assert data_root() == datasets_root
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert data_root() == Path("datasets")


def test_registering_reads_nothing_until_the_dataset_is_used():
    calls, classes = [], builtin_classes("camvid")
    load = lambda: calls.append(1) or [{"file_name": "a.png"}]  # noqa: E731
    register_sem_seg("catalog_test", load, classes, ignore_label=7, label_map={11: 7}, extra="kept")
    try:
        metadata = MetadataCatalog.get("catalog_test")
        assert metadata.stuff_classes == list(classes.names) and metadata.evaluator_type == "sem_seg"
        assert (metadata.ignore_label, metadata.label_map, metadata.extra) == (7, {11: 7}, "kept")
        assert np.asarray(metadata.stuff_colors).shape == (11, 3)
        assert not calls
        assert DatasetCatalog.get("catalog_test") == [{"file_name": "a.png"}] and calls
    finally:
        DatasetCatalog.remove("catalog_test")
        MetadataCatalog.remove("catalog_test")


def test_links_to_a_folder_above_are_not_followed(folders):
    for name in ("loop", "sub/again"):
        (folders["image_dir"] / name).symlink_to(folders["image_dir"])
    (folders["image_dir"] / "sub" / "twice").symlink_to(folders["image_dir"] / "sub")
    assert [record["image_id"] for record in pair_folders(**folders)] == ["a", "sub/b"]


def test_links_to_other_folders_are_followed(folders, tmp_path):
    for kind, file in (("images", "c.jpg"), ("labels", "c.png")):
        (tmp_path / "elsewhere" / kind).mkdir(parents=True)
        (tmp_path / "elsewhere" / kind / file).touch()
        (tmp_path / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
    assert [record["image_id"] for record in pair_folders(**folders)] == ["a", "more/c", "sub/b"]
