import miniatures
import numpy as np
import scipy.io
from dataset_files import made, read_labels

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
