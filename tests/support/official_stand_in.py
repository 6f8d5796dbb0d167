"""A small package with the interface of the official Mask2Former's repository."""

from pathlib import Path

PACKAGE = """
import sys

import MultiScaleDeformableAttention  # the compiled operator
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

print("the stand-in is imported")
assert not hasattr(MultiScaleDeformableAttention, "ms_deform_attn_forward")
assert "mta_clip" not in sys.modules


def add_maskformer2_config(cfg):
    cfg.MODEL.MASK_FORMER = CfgNode({"HIDDEN_DIM": 0})


@META_ARCH_REGISTRY.register()
class OfficialStandIn(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(cfg.MODEL.PIXEL_MEAN), persistent=False)
        self.layer = torch.nn.Conv2d(3, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + cfg.MODEL.MASK_FORMER.HIDDEN_DIM, 1)

    def forward(self, inputs):
        assert not self.training and not self.pixel_mean.any()
        return [{"sem_seg": self.layer(x["image"])} for x in inputs]
"""
CONFIG = """
MODEL:
  META_ARCHITECTURE: OfficialStandIn
  MASK_FORMER: {HIDDEN_DIM: 1}
  RESNETS: {RES5_MULTI_GRID: [1, 1, 1]}
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]
"""


def make_checkout(folder: Path) -> Path:
    """Writes the package and its config; it refuses to run beside mta_clip, or if its operator is not an empty one.

    Its scores have one channel more than MODEL.SEM_SEG_HEAD.NUM_CLASSES, as its YAML says.
    """
    root = folder / "Mask2Former"
    config = root / "configs" / "ade20k" / "semantic-segmentation" / "maskformer2_R50_bs16_160k.yaml"
    for path, text in ((root / "mask2former" / "__init__.py", PACKAGE), (config, CONFIG)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return root
