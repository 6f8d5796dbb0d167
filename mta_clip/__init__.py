"""mta-clip: language-guided semantic segmentation (MTA-CLIP, TagCLIP, Mask2Former baseline) on Detectron2.

    import mta_clip
    model = mta_clip.load("output/demo")
    result = model("street.jpg")

Importing it makes Detectron2 importable without its compiled part, and all models and datasets are in Detectron2's
registries once these are imported, before or after. What is named in `__all__` is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .compat import patch_detectron2
from .registration import register_with_detectron2

if TYPE_CHECKING:
    from . import data, modeling
    from .api.load import load
    from .api.result import Segmentation
    from .api.segmenter import Segmenter
    from .config import get_cfg
    from .config_loader import load_config
    from .predictor import SegmentationPredictor

__version__ = "0.1.0"
__all__ = [
    "Segmentation",
    "SegmentationPredictor",
    "Segmenter",
    "data",
    "get_cfg",
    "load",
    "load_config",
    "modeling",
]

_MODULES = {
    "Segmentation": "api.result",
    "SegmentationPredictor": "predictor",
    "Segmenter": "api.segmenter",
    "get_cfg": "config",
    "load": "api.load",
    "load_config": "config_loader",
}


def __getattr__(name: str) -> Any:
    """Imports what is named in `__all__` (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


patch_detectron2()
register_with_detectron2()
