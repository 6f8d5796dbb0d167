"""A meta-architecture that tells dark from bright pixels, for tests of what surrounds a model."""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from mta_clip.config import get_cfg

NAMES = ["dark thing", "bright thing"]


@META_ARCH_REGISTRY.register()
class BrightnessSegmentor(nn.Module):
    """Channel 1 wins where the mean of the channels exceeds a threshold; further names of a vocabulary never win."""

    def __init__(self, cfg=None) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.labels_only = cfg is not None and cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY
        self.vocabulary = None
        self.seen_sizes = []

    def set_vocabulary(self, names) -> None:
        self.vocabulary = names

    def forward(self, batched_inputs):
        return self.segment(batched_inputs, label_maps_only=self.labels_only)

    def segment(self, batched_inputs, *, label_maps_only):
        return [self._one(**item, label_maps_only=label_maps_only) for item in batched_inputs]

    def _one(self, image, height, width, label_maps_only):
        self.seen_sizes.append(tuple(image.shape[1:]))
        bright = F.interpolate(image[None].float().mean(1, keepdim=True), (height, width))[0] - self.threshold
        scores = torch.cat([-bright, bright, *[torch.full_like(bright, -1e4)] * (len(self.vocabulary or NAMES) - 2)])
        trusty = {"trusty": (bright[0] / 255).clamp(0, 1)}
        return ({"labels": scores.argmax(0)} if label_maps_only else {"sem_seg": scores}) | trusty


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
