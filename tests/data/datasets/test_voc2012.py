import miniatures
import numpy as np
from dataset_files import made, pixels, read_labels
from detectron2.data import MetadataCatalog
from PIL import Image

from mta_clip.data import load_dataset_dicts


def test_voc_with_and_without_background(datasets_root):
    made("voc2012", datasets_root)
    for record in load_dataset_dicts(["voc2012_20_sem_seg_val"]):
        stored = pixels(record["sem_seg_file_name"])
        assert Image.open(record["sem_seg_file_name"]).mode == "P"
        np.testing.assert_array_equal(read_labels("voc2012_21_sem_seg_val", record), stored)
        without = np.where((stored == 0) | (stored == 255), 255, stored.astype(int) - 1)
        np.testing.assert_array_equal(read_labels("voc2012_20_sem_seg_val", record), without)


def test_voc_trainaug_has_each_image_once_and_none_of_val(datasets_root):
    made("voc2012", datasets_root)
    train, aug, val = (
        {record["image_id"] for record in load_dataset_dicts([f"voc2012_20_sem_seg_{split}"])}
        for split in ("train", "trainaug", "val")
    )
    assert (len(train), len(val)) == (miniatures.TRAIN, miniatures.VAL)
    assert len(load_dataset_dicts(["voc2012_20_sem_seg_trainaug"])) == len(aug) == 2 * miniatures.TRAIN
    assert train < aug
    assert not aug & val


def test_background_goes_by_the_names_of_what_it_shows(datasets_root):
    made("voc2012", datasets_root)
    background, *objects = MetadataCatalog.get("voc2012_20b_sem_seg_val").stuff_classes
    first, *rest = background.split("; ")
    assert first == "background"
    assert (len(rest), rest[0], rest[-1]) == (39, "bag", "wood")
    assert not {*rest} & {*objects, "table"}
    for record in load_dataset_dicts(["voc2012_20b_sem_seg_val"]):
        labels = read_labels("voc2012_20b_sem_seg_val", record)
        np.testing.assert_array_equal(labels, read_labels("voc2012_21_sem_seg_val", record))
