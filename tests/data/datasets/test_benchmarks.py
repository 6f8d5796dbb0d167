"""Every dataset from its official download to the model's input, on miniatures."""

import subprocess
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import scipy.io
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scripts import load_script

from mta_clip.config import get_cfg
from mta_clip.data import LabelReader, SemanticDatasetMapper, load_dataset_dicts
from mta_clip.data.check import check_dataset
from mta_clip.data.prepare import run_script

ALL = [(mini, *names) for mini, versions in miniatures.REGISTERED.items() for names in versions]
SCRIPTS = Path(__file__).parents[3] / "datasets"


def _made(name, root):
    miniatures.make_miniature(name, root)
    miniatures.prepare_miniature(name, root)


@pytest.mark.parametrize("mini, train, val, num_classes", ALL, ids=[row[1] for row in ALL])
def test_from_download_to_model_input(mini, train, val, num_classes, datasets_root):
    _made(mini, datasets_root)
    for name in (train, val):
        findings = check_dataset(name)
        assert findings.troubles() == []
        assert (findings.pixels[255] > 0) == (num_classes != 60)  # PASCAL Context 60 has a class for everything
        assert len(findings.pixels) > 4

    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (train,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE, cfg.INPUT.SIZE_DIVISIBILITY = (48,), [32, 40], 48
    for record in load_dataset_dicts([train]):
        sample = SemanticDatasetMapper(cfg, is_train=True)(record)
        assert sample["image"].shape == (3, 48, 48)
        values = set(sample["sem_seg"].unique().tolist())
        assert values <= {*range(num_classes), 255}
        assert values - {255}


@pytest.mark.parametrize("train, val, num_classes", [row[1:] for row in ALL], ids=[row[1] for row in ALL])
def test_metadata(train, val, num_classes):
    for name in (train, val):
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == num_classes
        assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_missing_dataset_says_where_it_looked(datasets_root):
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit.train.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("cityscapes_19_sem_seg_train")


def test_unprepared_dataset_names_the_first_missing_file(datasets_root):
    miniatures.make_miniature("cityscapes", datasets_root)
    with pytest.raises(FileNotFoundError, match="aachen_000000_000019_gtFine_labelTrainIds"):
        DatasetCatalog.get("cityscapes_19_sem_seg_train")


def test_ade20k_void_and_first_class(datasets_root):
    _made("ade20k", datasets_root)
    for record in load_dataset_dicts(["ade20k_150_sem_seg_val"]):
        stored = _pixels(record["sem_seg_file_name"].replace("annotations_detectron2", "annotations"))
        prepared = _read("ade20k_150_sem_seg_val", record)
        np.testing.assert_array_equal(prepared, np.where(stored == 0, 255, stored - 1))


def test_cityscapes_train_ids(datasets_root):
    miniatures.make_miniature("cityscapes", datasets_root)
    _write_values(next(datasets_root.glob("cityscapes/gtFine/train/*/*_labelIds.png")), range(34))
    miniatures.prepare_miniature("cityscapes", datasets_root)
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    expected |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for record in load_dataset_dicts(["cityscapes_19_sem_seg_train"]):
        stored = _pixels(record["sem_seg_file_name"].replace("labelTrainIds", "labelIds"))
        wanted = np.vectorize(lambda value: expected.get(value, 255))(stored)
        np.testing.assert_array_equal(_read("cityscapes_19_sem_seg_train", record), wanted)
    assert not list(datasets_root.glob("cityscapes/gtFine/test/*/*labelTrainIds.png"))


def test_voc_with_and_without_background(datasets_root):
    _made("voc2012", datasets_root)
    for record in load_dataset_dicts(["voc2012_20_sem_seg_val"]):
        stored = _pixels(record["sem_seg_file_name"])
        assert Image.open(record["sem_seg_file_name"]).mode == "P"
        np.testing.assert_array_equal(_read("voc2012_21_sem_seg_val", record), stored)
        without = np.where((stored == 0) | (stored == 255), 255, stored.astype(int) - 1)
        np.testing.assert_array_equal(_read("voc2012_20_sem_seg_val", record), without)


def test_voc_trainaug_has_each_image_once_and_none_of_val(datasets_root):
    _made("voc2012", datasets_root)
    train, aug, val = (
        {record["image_id"] for record in load_dataset_dicts([f"voc2012_20_sem_seg_{split}"])}
        for split in ("train", "trainaug", "val")
    )
    assert (len(train), len(val)) == (miniatures.TRAIN, miniatures.VAL)
    assert len(load_dataset_dicts(["voc2012_20_sem_seg_trainaug"])) == len(aug) == 2 * miniatures.TRAIN
    assert train < aug
    assert not aug & val


def test_coco_stuff_ids_lose_their_gaps(datasets_root):
    miniatures.make_miniature("coco_stuff", datasets_root)
    gaps = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    every_id = [value for value in range(182) if value not in gaps]
    _write_values(next(datasets_root.glob("coco/stuffthingmaps/train2017/*.png")), every_id)
    miniatures.prepare_miniature("coco_stuff", datasets_root)
    seen = set()
    for record in load_dataset_dicts(["coco_stuff_171_sem_seg_train"]):
        stored = _pixels(record["sem_seg_file_name"].replace("stuffthingmaps_171", "stuffthingmaps")).astype(int)
        prepared = _read("coco_stuff_171_sem_seg_train", record)
        shift = np.searchsorted(gaps, stored)
        np.testing.assert_array_equal(prepared, np.where(stored == 255, 255, stored - shift))
        seen |= set(np.unique(prepared))
    assert seen == {*range(171), 255}


def test_coco_stuff_refuses_converted_files(datasets_root):
    folder = datasets_root / "coco/stuffthingmaps/val2017"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 11, np.uint8)).save(folder / "000000000009.png")  # index of "stop sign"
    with pytest.raises(ValueError, match=r"000000000009\.png: COCO-Stuff has no class with id 12"):
        miniatures.prepare_miniature("coco_stuff", datasets_root)


def test_context_keeps_59_of_459(datasets_root):
    _made("pascal_context", datasets_root)
    position = {number: index for index, number in enumerate(miniatures.CONTEXT_IDS)}
    for record in load_dataset_dicts(["pascal_context_59_sem_seg_train"]):
        matrix = scipy.io.loadmat(datasets_root / "pascal_context/trainval" / f"{record['image_id']}.mat")["LabelMap"]
        wanted = np.vectorize(lambda value: position.get(value, 255))(matrix)
        np.testing.assert_array_equal(_read("pascal_context_59_sem_seg_train", record), wanted)
        with_background = _read("pascal_context_60_sem_seg_train", record)
        np.testing.assert_array_equal(with_background, np.where(wanted == 255, 0, wanted + 1))


def test_scripts_repeat_only_what_is_missing(datasets_root):
    _made("ade20k", datasets_root)
    first, second = sorted(datasets_root.glob("ADEChallengeData2016/annotations_detectron2/*/*.png"))[:2]
    content, untouched = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    miniatures.prepare_miniature("ade20k", datasets_root)
    assert first.read_bytes() == content
    assert second.stat().st_mtime_ns == untouched


def test_interrupted_script_leaves_no_broken_file(datasets_root, monkeypatch):
    miniatures.make_miniature("ade20k", datasets_root)

    def half_written(self, file, **options):
        Path(file).write_bytes(b"half a PNG")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Image.Image, "save", half_written)
        miniatures.prepare_miniature("ade20k", datasets_root)
    assert not list(datasets_root.glob("ADEChallengeData2016/annotations_detectron2/*/*.png*"))
    miniatures.prepare_miniature("ade20k", datasets_root)
    assert check_dataset("ade20k_150_sem_seg_train").troubles() == []


@pytest.mark.slow
def test_script_from_the_command_line_in_parallel(datasets_root):
    miniatures.make_miniature("pascal_context", datasets_root)
    script = [sys.executable, str(SCRIPTS / "prepare_pascal_context.py")]
    subprocess.run([*script, "--workers", "2", "--root", str(datasets_root)], check=True)
    assert len(load_dataset_dicts(["pascal_context_59_sem_seg_train"])) == miniatures.TRAIN


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "voc2012", "coco_stuff", "pascal_context"])
def test_script_without_the_download_fails_readably(name, datasets_root, caplog):
    script = load_script(SCRIPTS / f"prepare_{name}.py")
    assert run_script(script.__doc__, script.prepare, ["--root", str(datasets_root)]) == 1
    assert str(datasets_root) in caplog.text
    assert "README" in caplog.text


def _write_values(path, values):
    """Puts every value into the first pixels of a label map."""
    labels = _pixels(path).copy()
    labels.flat[: len(values)] = list(values)
    Image.fromarray(labels).save(path)


def _pixels(path):
    return np.array(Image.open(path))


def _read(name, record):
    return LabelReader.from_metadata(MetadataCatalog.get(name)).read(record["sem_seg_file_name"])
