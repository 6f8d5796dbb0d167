import numpy as np
from dataset_files import made, pixels, read_labels

from mta_clip.data import load_dataset_dicts


def test_ade20k_void_and_first_class(datasets_root):
    made("ade20k", datasets_root)
    for record in load_dataset_dicts(["ade20k_150_sem_seg_val"]):
        stored = pixels(record["sem_seg_file_name"].replace("annotations_detectron2", "annotations"))
        prepared = read_labels("ade20k_150_sem_seg_val", record)
        np.testing.assert_array_equal(prepared, np.where(stored == 0, 255, stored - 1))
