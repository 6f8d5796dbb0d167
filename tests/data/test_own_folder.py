import pytest
from dataset_files import write_pairs
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mta_clip.config import get_cfg
from mta_clip.config_loader import parse_config
from mta_clip.data import own_config, register_folders, with_classes

NAMES = [f"photo {index}" for index in range(10)]


@pytest.fixture
def streets(tmp_path):
    """An empty folder with names.txt; its datasets are removed from the catalogs afterwards."""
    root = tmp_path / "streets"
    root.mkdir()
    (root / "names.txt").write_text("road\t1 2 3\nsky\n")
    yield root
    for name in [name for name in DatasetCatalog.list() if name.startswith("own_")]:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def images_of(cfg):
    """{split: names of the images} of a config, as registered."""
    register_folders(cfg)
    splits = {"train": cfg.DATASETS.TRAIN, "val": cfg.DATASETS.TEST}
    return {
        split: [record["image_id"] for name in names for record in DatasetCatalog.get(name)]
        for split, names in splits.items()
    }


@pytest.mark.parametrize(
    "image_dir, label_dir",
    [("{}/images", "{}/labels"), ("images/{}", "labels/{}")],
)
@pytest.mark.parametrize("train, val", [("train", "val"), ("training", "valid")])
def test_a_folder_for_each_split(streets, image_dir, label_dir, train, val):
    write_pairs(streets / image_dir.format(train), streets / label_dir.format(train), ["a", "b"])
    write_pairs(streets / image_dir.format(val), streets / label_dir.format(val), ["c"])
    cfg = own_config(get_cfg(), data=streets)
    assert cfg.DATASETS.TRAIN == ("own_streets_train",) and cfg.DATASETS.TEST == ("own_streets_val",)
    assert images_of(cfg) == {"train": ["a", "b"], "val": ["c"]}
    filled = with_classes(cfg)
    assert filled.MODEL.PROMPT.CLASS_NAMES == ["road", "sky"] and filled.MODEL.CLASS_COLORS[0] == [1, 2, 3]
    assert filled.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2 and filled.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 255


def test_a_share_is_held_out(streets):
    write_pairs(streets / "images", streets / "labels", NAMES)
    cfg = own_config(get_cfg(), data=streets, val_share=0.3)
    found = images_of(cfg)
    assert len(found["val"]) == 3 and sorted(found["train"] + found["val"]) == NAMES
    assert images_of(own_config(get_cfg(), data=streets, val_share=0.3)) == found
    assert images_of(own_config(get_cfg(), data=streets, val_share=0.3, seed=1)) != found
    assert images_of(own_config(get_cfg(), data=streets, val_share=0))["train"] == NAMES
    base = get_cfg()
    base.TEST.KEEP_BEST = "sem_seg/mIoU"
    cfg = own_config(base, data=streets, val_share=0)
    assert not cfg.DATASETS.TEST and not cfg.TEST.KEEP_BEST


def test_a_saved_config_keeps_the_split(streets):
    write_pairs(streets / "images", streets / "labels", NAMES)
    cfg = own_config(get_cfg(), data=streets)
    found = images_of(cfg)
    write_pairs(streets / "images", streets / "labels", ["new"])
    assert images_of(parse_config(cfg.dump(), where="test")) == found
    moved = set(images_of(own_config(get_cfg(), data=streets))["val"]) ^ set(found["val"])
    assert len(moved - {"new"}) <= 1


def test_parts_in_other_places(streets, tmp_path):
    write_pairs(tmp_path / "photos", tmp_path / "masks", NAMES, label_suffix="_mask.png")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    parts = {"images": tmp_path / "photos", "labels": tmp_path / "masks"}
    cfg = own_config(get_cfg(), **parts, names=tmp_path / "classes.txt")
    assert sum(map(len, images_of(cfg).values())) == len(NAMES)
    assert cfg.DATASETS.FOLDERS[0]["label_suffix"] == "_mask.png"
    assert with_classes(cfg).MODEL.PROMPT.CLASS_NAMES == ["x", "y", "z"]
    assert with_classes(own_config(get_cfg(), data=streets, **parts)).DATASETS.TRAIN == ("own_streets_train",)


@pytest.mark.parametrize("label_suffix", [".png", "_mask.png"])
def test_photos_and_label_maps_in_one_folder(streets, label_suffix, caplog):
    write_pairs(streets, streets, NAMES, label_suffix=label_suffix)
    link = streets.with_name("link")
    link.symlink_to(streets)
    cfg = own_config(get_cfg(), data=streets, images=streets, labels=link)
    found = images_of(cfg)
    assert len(found["val"]) == 2 and sorted(found["train"] + found["val"]) == NAMES
    for record in DatasetCatalog.get("own_streets_train"):
        name = str(streets / record["image_id"])
        assert (record["file_name"], record["sem_seg_file_name"]) == (f"{name}.jpg", name + label_suffix)
    assert not caplog.records, "nothing is unused"


def test_photos_that_cannot_be_told_from_label_maps(streets):
    write_pairs(streets, streets, NAMES)
    parts = {"data": streets, "images": streets, "labels": streets}
    (streets / "photo 0.jpg").rename(streets / "photo 0.JPG")
    with pytest.raises(ValueError, match=r"in one folder \(1 \.JPG, 9 \.jpg, 10 \.png\).* all photos have one ending"):
        own_config(get_cfg(), **parts)
    for path in streets.glob("*.[jJ]*"):
        path.rename(path.with_name(f"{path.stem}_photo.png"))
    with pytest.raises(ValueError, match=r"\(20 \.png\).*into a folder of their own"):
        own_config(get_cfg(), **parts)


def test_endings_when_names_begin_alike(streets):
    write_pairs(streets / "images", streets / "labels", ["a1", "a10", "a100"], label_suffix="0.png")
    cfg = own_config(get_cfg(), data=streets, val_share=0)
    assert cfg.DATASETS.FOLDERS[0]["label_suffix"] == "0.png"
    assert images_of(cfg)["train"] == ["a1", "a10", "a100"]


def test_only_what_is_said_of_data_and_classes_changes(streets):
    write_pairs(streets / "images", streets / "labels", NAMES)
    base = get_cfg()
    base.DATASETS.TRAIN, base.DATASETS.UNSEEN_CLASSES = ("camvid_sem_seg_train",), ["car"]
    base.MODEL.SEM_SEG_HEAD.NUM_CLASSES, base.SOLVER.MAX_ITER = 11, 7
    base.freeze()
    cfg = own_config(base, data=streets, label_map={255: 1}, ignore_label=7)
    assert cfg.is_frozen() and cfg.SOLVER.MAX_ITER == 7
    assert (
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == get_cfg().MODEL.SEM_SEG_HEAD.NUM_CLASSES
        and cfg.DATASETS.UNSEEN_CLASSES == []
    )
    entry = cfg.DATASETS.FOLDERS[0]
    assert entry["label_map"] == {255: 1} and entry["ignore_label"] == 7
    assert base.DATASETS.TRAIN == ("camvid_sem_seg_train",)


def test_missing_names_tell_the_values(streets):
    write_pairs(streets / "images", streets / "labels", NAMES, values=(0, 3, 255))
    (streets / "names.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"names\.txt.*one name per line.*the values \[0, 3, 255\]"):
        own_config(get_cfg(), data=streets)


def test_what_is_missing_or_wrong(streets, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"streets/images: .*\['names\.txt'\]"):
        own_config(get_cfg(), data=streets)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        own_config(get_cfg(), data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="images, labels and names"):
        own_config(get_cfg(), images=streets, labels=streets)
    write_pairs(streets / "images", streets / "labels", ["a"])
    with pytest.raises(ValueError, match="val_share is 20"):
        own_config(get_cfg(), data=streets, val_share=20)
    with pytest.raises(ValueError, match="1 photo cannot be divided"):
        own_config(get_cfg(), data=streets)
    with pytest.raises(FileNotFoundError, match="none: this folder does not exist"):
        own_config(get_cfg(), data=streets, labels=tmp_path / "none")


def test_label_maps_in_jpeg(streets):
    write_pairs(streets / "images", streets / "labels", NAMES)
    for path in (streets / "labels").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(ValueError, match="labels: the label maps are JPEG"):
        own_config(get_cfg(), data=streets)


def test_all_missing_label_maps_are_named(streets):
    write_pairs(streets / "images", streets / "labels", NAMES)
    for name in NAMES[:3]:
        (streets / "labels" / f"{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3 of 10 label maps are missing.*photo 0\.png, .*1\.png, .*2\.png"):
        register_folders(own_config(get_cfg(), data=streets, val_share=0))
