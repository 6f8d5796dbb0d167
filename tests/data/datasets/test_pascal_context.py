import miniatures
import numpy as np
import pytest
import scipy.io
from dataset_files import made, pixels, read_labels

from mta_clip.data import load_dataset_dicts


def test_context_keeps_59_of_459(datasets_root):
    made("pascal_context", datasets_root)
    position = {number: index for index, number in enumerate(miniatures.CONTEXT_IDS)}
    for record in load_dataset_dicts(["pascal_context_59_sem_seg_train"]):
        matrix = scipy.io.loadmat(datasets_root / "pascal_context/trainval" / f"{record['image_id']}.mat")["LabelMap"]
        wanted = np.vectorize(lambda value: position.get(value, 255))(matrix)
        np.testing.assert_array_equal(read_labels("pascal_context_59_sem_seg_train", record), wanted)
        with_background = read_labels("pascal_context_60_sem_seg_train", record)
        np.testing.assert_array_equal(with_background, np.where(wanted == 255, 0, wanted + 1))


def test_context_459_keeps_all(datasets_root):
    miniatures.make_miniature("pascal_context", datasets_root)
    first = next(datasets_root.glob("pascal_context/trainval/*.mat"))
    labels = scipy.io.loadmat(first)["LabelMap"]
    labels.flat[:460] = range(460)
    scipy.io.savemat(first, {"LabelMap": labels})
    miniatures.prepare_miniature("pascal_context", datasets_root)
    for record in load_dataset_dicts([f"pascal_context_459_sem_seg_{split}" for split in ("train", "val")]):
        matrix = scipy.io.loadmat(datasets_root / "pascal_context/trainval" / f"{record['image_id']}.mat")["LabelMap"]
        assert pixels(record["sem_seg_file_name"]).dtype == np.uint16
        labels = read_labels("pascal_context_459_sem_seg_train", record)
        np.testing.assert_array_equal(labels, np.where(matrix == 0, 65535, matrix.astype(int) - 1))


def test_context_refuses_other_label_maps(datasets_root):
    miniatures.make_miniature("pascal_context", datasets_root)
    first = next(datasets_root.glob("pascal_context/trainval/*.mat"))
    scipy.io.savemat(first, {"LabelMap": np.full((4, 4), 460, np.uint16)})
    with pytest.raises(ValueError, match=rf"{first.name}: label value 460 is not in the list of 459 classes"):
        miniatures.prepare_miniature("pascal_context", datasets_root)
