import miniatures
import numpy as np
import pytest
from dataset_files import pixels, read_labels, write_values
from detectron2.data import DatasetCatalog

from mta_clip.data import load_dataset_dicts


def test_missing_dataset_says_where_it_looked(datasets_root):
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit.train.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("cityscapes_19_sem_seg_train")


def test_unprepared_dataset_names_the_first_missing_file(datasets_root):
    miniatures.make_miniature("cityscapes", datasets_root)
    with pytest.raises(FileNotFoundError, match="aachen_000000_000019_gtFine_labelTrainIds"):
        DatasetCatalog.get("cityscapes_19_sem_seg_train")


def test_cityscapes_train_ids(datasets_root):
    miniatures.make_miniature("cityscapes", datasets_root)
    write_values(next(datasets_root.glob("cityscapes/gtFine/train/*/*_labelIds.png")), range(34))
    miniatures.prepare_miniature("cityscapes", datasets_root)
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    expected |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for record in load_dataset_dicts(["cityscapes_19_sem_seg_train"]):
        stored = pixels(record["sem_seg_file_name"].replace("labelTrainIds", "labelIds"))
        wanted = np.vectorize(lambda value: expected.get(value, 255))(stored)
        np.testing.assert_array_equal(read_labels("cityscapes_19_sem_seg_train", record), wanted)
    assert not list(datasets_root.glob("cityscapes/gtFine/test/*/*labelTrainIds.png"))
