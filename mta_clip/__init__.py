"""mta-clip: language-guided semantic segmentation (MTA-CLIP, TagCLIP, Mask2Former baseline) on Detectron2.

Importing it registers all models and datasets with Detectron2.
"""

from .compat import patch_detectron2

patch_detectron2()

from . import data, modeling  # noqa: E402  (detectron2 must be patched first)

__version__ = "0.1.0"
__all__ = ["data", "modeling"]
