"""Exports a model: traces its graphs, describes it and writes the files.

Shapes: as in `graphs`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .. import __version__
from ..data import unseen_classes
from ..modeling.ops import plain_forms
from .formats import SUFFIXES, quiet_exporters, require_format, write_graph
from .graphs import RETURNS, ClosedGraph, FeatureGraph, Graph, NamesGraph, check_supported
from .names import require_text, save_names, text_features

logger = logging.getLogger(__name__)

VOCABULARIES = ("closed", "open")
_EXAMPLE_SIZE = (100, 90)  # of the images that free sizes are traced with: no side may be one pixel at any stride
_EXAMPLE_NAMES = 3


def export_model(
    model: nn.Module,
    cfg: CfgNode,
    path: str | Path,
    *,
    format: str = "onnx",
    vocabulary: str = "closed",
    names: Sequence[str] | None = None,
    returns: str = "scores",
    size: tuple[int, int] | None = None,
) -> list[Path]:
    """Writes a model as files that run without this package.

    Graphs take images (B, 3, H, W) uint8 RGB, values 0..255, of any B, and return scores (B, K, H, W) float32 or labels
    (B, H, W) int64 of the same size. They compute in float32 and score whole images: sliding windows, augmentation and
    the resizing of images (INPUT.MIN_SIZE_TEST) stay outside.

    - closed: one graph, `images` -> scores of fixed names.
    - open: `path` gives features of images; `<stem>_names` takes the same `images` (for their size), these features and
      `text` (K, Z, Dt) of any K names (with TagCLIP also `seen` (K,) bool); `<stem>_names.npz` has these for `names`.

    Args:
        model: from `build_trained_model`, on the CPU.
        cfg: of the model.
        path: of the first file; its suffix is that of the format.
        format: onnx | torch (torch.export) | openvino.
        vocabulary: closed | open.
        names: class names, compared as text; None: those in use.
        returns: scores | labels.
        size: (H, W) in pixels that the graphs are limited to; None: any size from 2 pixels.

    Returns:
        The files.

    Raises:
        ValueError: an unknown option, the frozen CLIP, the maximum over synonyms, a size that is not positive, an open
            vocabulary or names for a model without text, a free size for an encoder that pads by size, or a model
            of another meta-architecture.
        ModuleNotFoundError: a library is missing; see `import_extra`.
        OSError: a file cannot be written.
    """
    path = Path(path)
    require_format(format, path)
    check_supported(model)
    _check_options(vocabulary, returns, size)
    before = model.vocabulary
    asked = names or before
    names = list(asked or cfg.MODEL.PROMPT.CLASS_NAMES)
    _check_model(cfg, names)
    _check_padding(model, size)
    if cfg.TEST.SLIDING_WINDOW.ENABLED or cfg.TEST.AUG.ENABLED:
        logger.warning("the graph scores whole images; windows and augmentation (config node TEST) are not part of it")
    model.eval()
    if vocabulary == "open":
        require_text(model)
    options = {"returns": returns, "image_format": cfg.INPUT.FORMAT}
    about = describe(cfg, names=names, returns=returns, size=size)
    images = torch.zeros(2, 3, *(size or _EXAMPLE_SIZE), dtype=torch.uint8)
    if vocabulary == "open":
        return _export_open(model, path, format, names, images, about, options)
    model.set_vocabulary(names if asked else None)
    graph = ClosedGraph(model, **options)
    model.set_vocabulary(before)
    program = trace(graph, (images,), (_image_axes(size),))
    return write_graph(format, program, path, about, inputs=["images"], outputs=[returns])


def _export_open(
    model: nn.Module,
    path: Path,
    format: str,
    names: list[str],
    images: Tensor,
    about: dict[str, Any],
    options: dict[str, str],
) -> list[Path]:
    second = path.with_name(f"{path.stem}_names{SUFFIXES[format]}")
    archive = second.with_suffix(".npz")
    size = about["size"]
    first_graph, names_graph = FeatureGraph(model, **options), NamesGraph(model, **options)
    feature_names, name_inputs = first_graph.parts.feature_names, first_graph.parts.name_inputs
    with torch.no_grad():
        features = first_graph(images)
    text = text_features(model, names)[:1].expand(_EXAMPLE_NAMES, -1, -1).clone()
    values = [text, torch.ones(_EXAMPLE_NAMES, dtype=torch.bool)][: len(name_inputs)]
    axes = _image_axes(size)
    maps = {} if size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    feature_axes = tuple({0: axes[0], **(maps if x.dim() == 4 else {})} for x in features)
    arguments = (images, tuple(features), tuple(values))
    names_program = trace(names_graph, arguments, (axes, feature_axes, tuple({0: Dim.DYNAMIC} for _ in values)))
    program = trace(first_graph, (images,), (axes,))
    files = write_graph(format, program, path, about, inputs=["images"], outputs=feature_names)
    inputs = ["images", *feature_names, *name_inputs]
    files += write_graph(format, names_program, second, about, inputs=inputs, outputs=[options["returns"]])
    save_names(model, names, archive)
    return [*files, archive]


def trace(graph: Graph, arguments: tuple, dynamic_shapes: tuple) -> ExportedProgram:
    """`torch.export` of a graph with the plain forms of all operators and weights that are constants."""
    graph = graph.eval().requires_grad_(False)
    with plain_forms(), torch.no_grad(), quiet_exporters():
        return torch.export.export(graph, arguments, dynamic_shapes=dynamic_shapes, strict=False)


def describe(cfg: CfgNode, *, names: Sequence[str], returns: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a program needs to know to use the graphs, as JSON values by name; docs/export.md explains them."""
    trained = list(cfg.MODEL.PROMPT.CLASS_NAMES)
    colors = dict(zip(trained, cfg.MODEL.CLASS_COLORS, strict=False))
    window = cfg.TEST.SLIDING_WINDOW
    return {
        "producer": f"mta-clip {__version__}",
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "class_names": list(names),
        "class_colors": [list(colors[name]) for name in names] if set(names) <= set(colors) else [],
        "unseen_classes": unseen_classes(cfg, names),
        "returns": returns,
        "size": None if size is None else list(size),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "normalization": "inside the graph: images are uint8 RGB, 0..255",
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "sliding_window": {"size": list(window.SIZE), "stride": list(window.STRIDE)} if window.ENABLED else None,
    }


def _check_options(vocabulary: str, returns: str, size: tuple[int, int] | None) -> None:
    for name, value, known in (("vocabulary", vocabulary, VOCABULARIES), ("returns", returns, RETURNS)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}: one of {', '.join(known)}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"the size of images must be height and width in pixels, both positive, got {size}")


def _check_model(cfg: CfgNode, names: Sequence[str]) -> None:
    if cfg.MODEL.MTA.FROZEN_CLIP.ENABLED:
        raise ValueError("the frozen CLIP is not part of graphs: set MODEL.MTA.FROZEN_CLIP.ENABLED False")
    if cfg.MODEL.PROMPT.SYNONYMS == "max" and any(";" in name for name in names):
        raise ValueError("graphs have one text per name: set MODEL.PROMPT.SYNONYMS mean, or name no synonyms")


def _check_padding(model: nn.Module, size: tuple[int, int] | None) -> None:
    """Padding that each layer derives from the size of its input multiplies symbolic sizes: tracing does not end."""
    padded = sorted({type(module).__name__ for module in model.modules() if type(module).__name__.endswith("Same")})
    if size is None and padded:
        raise ValueError(
            f"the image encoder pads by the size of its input ({', '.join(padded)}, as in timm's tf_efficientnet), "
            "which graphs of a free size cannot: name the size of images, --size H W or size=(H, W)"
        )


def _image_axes(size: tuple[int, int] | None) -> dict[int, object]:
    """The free axes of images (B, 3, H, W)."""
    return dict.fromkeys((0,) if size else (0, 2, 3), Dim.DYNAMIC)
