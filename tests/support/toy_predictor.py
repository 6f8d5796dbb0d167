"""A meta-architecture that tells dark from bright pixels, for tests of what surrounds a model."""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.modeling import SegmentationModel
from mta_clip.modeling.inference import Scores, WholeScores

NAMES = ["dark thing", "bright thing"]


@META_ARCH_REGISTRY.register()
class BrightnessSegmentor(SegmentationModel):
    """Channel 1 wins where the mean of the channels exceeds a threshold; further names of a vocabulary never win."""

    def __init__(self, cfg=None) -> None:
        label_maps_only = cfg is not None and cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY
        super().__init__(pixel_mean=[0] * 3, pixel_std=[1] * 3, size_divisibility=1, label_maps_only=label_maps_only)
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self._vocabulary = None
        self.seen_sizes = []

    @property
    def vocabulary(self):
        return self._vocabulary

    def set_vocabulary(self, names) -> None:
        self._vocabulary = names

    def predict(self, images):
        return [self._scores(image) for image in images]

    def _scores(self, image):
        self.seen_sizes.append(tuple(image.shape[1:]))
        bright = image.mean(0, keepdim=True) - self.threshold
        others = [torch.full_like(bright, -1e4)] * (len(self.vocabulary or NAMES) - 2)
        return WholeScores(Scores(torch.cat([-bright, bright, *others]), (bright / 255).clamp(0, 1)))


def make_config(tmp_path):
    """A config file and trained weights (threshold 100); returns both paths."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "BrightnessSegmentor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PROMPT.CLASS_NAMES = NAMES
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(NAMES)
    cfg.DATASETS.TRAIN = ()
    cfg.INPUT.MIN_SIZE_TEST = 16
    cfg.INPUT.MAX_SIZE_TEST = 64
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": {"threshold": torch.tensor(100.0)}}, tmp_path / "model.pth")
    return str(tmp_path / "config.yaml"), str(tmp_path / "model.pth")
