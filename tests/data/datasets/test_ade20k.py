from pathlib import Path

import numpy as np
from dataset_files import made, pixels, read_labels
from miniatures import make_miniature, prepare_miniature
from PIL import Image
from scripts import load_script

from mta_clip.data import load_dataset_dicts

POSITION = {number: index for index, number in enumerate(load_script("datasets/prepare_ade20k_847.py").NUMBERS)}


def test_ade20k_void_and_first_class(datasets_root):
    made("ade20k", datasets_root)
    for record in load_dataset_dicts(["ade20k_150_sem_seg_val"]):
        stored = pixels(record["sem_seg_file_name"].replace("annotations_detectron2", "annotations"))
        prepared = read_labels("ade20k_150_sem_seg_val", record)
        np.testing.assert_array_equal(prepared, np.where(stored == 0, 255, stored - 1))


def numbers_in(path):
    """As the release documents them: the tens of red count 256, green counts one."""
    red, green, _ = np.array(Image.open(path)).astype(int).transpose(2, 0, 1)
    return red // 10 * 256 + green


def test_ade20k_847_numbers_become_indices(datasets_root):
    made("ade20k_847", datasets_root)
    assert (POSITION[2978], POSITION[312], POSITION[3148]) == (0, 1, 846)  # wall, building, adding machine
    for record in load_dataset_dicts(["ade20k_847_sem_seg_train"]):
        (stored,) = datasets_root.glob(f"ADE20K_2021_17_01/images/ADE/training/*/*/{record['image_id']}_seg.png")
        assert stored.with_name(f"{record['image_id']}.jpg").read_bytes() == Path(record["file_name"]).read_bytes()
        wanted = np.vectorize(lambda number: POSITION.get(number, 65535))(numbers_in(stored))
        assert pixels(record["sem_seg_file_name"]).dtype == np.uint16
        labels = read_labels("ade20k_847_sem_seg_train", record)
        np.testing.assert_array_equal(labels, wanted)
        assert labels[labels != 65535].max() > 255


def test_ade20k_847_images_are_scaled_down(datasets_root):
    make_miniature("ade20k_847", datasets_root)
    (folder,) = datasets_root.glob("ADE20K_2021_17_01/images/ADE/validation/*/*")
    files = [folder / "ADE_val_00000001.jpg", folder / "ADE_val_00000001_seg.png"]
    before = numbers_in(files[1])
    for file in files:
        Image.open(file).resize((1100, 1024), Image.Resampling.NEAREST).save(file)
    prepare_miniature("ade20k_847", datasets_root)
    record = load_dataset_dicts(["ade20k_847_sem_seg_val"])[0]
    assert Image.open(record["file_name"]).size == (550, 512)
    labels = read_labels("ade20k_847_sem_seg_val", record)
    assert labels.shape == (512, 550)
    mixed = set(np.unique(labels)) - {POSITION.get(number, 65535) for number in np.unique(before)}
    assert not mixed  # no class between two
