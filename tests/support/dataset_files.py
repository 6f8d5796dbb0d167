"""Label maps of miniatures, as they are stored and as a dataset reads them, and folders of photos."""

import miniatures
import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from mta_clip.data import LabelReader


def made(name, root):
    miniatures.make_miniature(name, root)
    miniatures.prepare_miniature(name, root)


def write_values(path, values):
    """Puts every value into the first pixels of a label map."""
    labels = pixels(path).copy()
    labels.flat[: len(values)] = list(values)
    Image.fromarray(labels).save(path)


def pixels(path):
    return np.array(Image.open(path))


def read_labels(name, record):
    return LabelReader.from_metadata(MetadataCatalog.get(name)).read(record["sem_seg_file_name"])


def write_pairs(images, labels, names, *, values=(0, 1), label_suffix=".png"):
    """Photos of 5x4 pixels, JPEG, and label maps that hold the values."""
    for name in names:
        for path in (images / f"{name}.jpg", labels / f"{name}{label_suffix}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(images / f"{name}.jpg")
        Image.fromarray(np.resize(np.array(values, np.uint8), (4, 5))).save(labels / f"{name}{label_suffix}")


def write_photos(folder):
    """Three images, bright on the left, one of them in a subfolder, and a text file; returns the folder."""
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        picture = np.full((20, 30, 3), 20, np.uint8)
        picture[:, : 10 + index] = 230
        Image.fromarray(picture).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder
