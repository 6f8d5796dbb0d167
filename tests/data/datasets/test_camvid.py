import miniatures
import numpy as np
import pytest
from dataset_files import made, pixels, read_labels

from mta_clip.data import load_dataset_dicts


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_only_the_unlabelled_value_is_ignored(split, datasets_root):
    made("camvid", datasets_root)
    records = load_dataset_dicts([f"camvid_sem_seg_{split}"])
    assert len(records) == (miniatures.TRAIN if split == "train" else miniatures.VAL)
    for record in records:
        stored = pixels(record["sem_seg_file_name"])
        assert (stored == 11).any()
        labels = read_labels(f"camvid_sem_seg_{split}", record)
        np.testing.assert_array_equal(labels, np.where(stored == 11, 255, stored))
