import miniatures
import numpy as np
import pytest
from dataset_files import pixels, read_labels, write_values
from PIL import Image

from mta_clip.data import load_dataset_dicts


def test_coco_stuff_ids_lose_their_gaps(datasets_root):
    miniatures.make_miniature("coco_stuff", datasets_root)
    gaps = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    every_id = [value for value in range(182) if value not in gaps]
    write_values(next(datasets_root.glob("coco/stuffthingmaps/train2017/*.png")), every_id)
    miniatures.prepare_miniature("coco_stuff", datasets_root)
    seen = set()
    for record in load_dataset_dicts(["coco_stuff_171_sem_seg_train"]):
        stored = pixels(record["sem_seg_file_name"].replace("stuffthingmaps_171", "stuffthingmaps")).astype(int)
        prepared = read_labels("coco_stuff_171_sem_seg_train", record)
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
