"""Label maps of miniatures, as they are stored and as a dataset reads them."""

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
