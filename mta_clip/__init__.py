"""mta-clip: language-guided semantic segmentation (MTA-CLIP, TagCLIP, Mask2Former baseline) on Detectron2."""

from .compat import prepare_detectron2

prepare_detectron2()

__version__ = "0.1.0"
