"""`mta-clip info`: what a config, a run or a checkpoint is, and what it would run on."""

import argparse
import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_names import CONFIG_SUFFIXES, config_names, find_config
from ..files import read_json
from .console import write_result
from .options import CONFIG_HELP

if TYPE_CHECKING:
    from detectron2.config import CfgNode

DESCRIPTION = """Describes a config, a run or a checkpoint, and this installation.

  mta-clip info                           this installation, and the names of all configs
  mta-clip info camvid/mta_clip_small     architecture, datasets, classes and parameters
  mta-clip info output/demo               the same of a run, and its metrics
  mta-clip info model_final.pth           the same of a checkpoint
"""

_PACKAGES = ("mta-clip", "torch", "torchvision", "open_clip_torch", "detectron2", "detectron2-cdo", "numpy", "Pillow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("model", nargs="?", default="", help=f"{CONFIG_HELP}; or a checkpoint")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    rows = _model(args.model) if args.model else [*_installation(), ("configs", "\n".join(config_names()))]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        text = str(value).replace("\n", "\n" + " " * width)
        write_result(f"{name:{width}}{text}")
    return 0


def _installation() -> list[tuple[str, object]]:
    import torch

    rows = [("Python", f"{platform.python_version()} on {platform.platform()}")]
    for package in _PACKAGES:
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:  # such as the other of the two detectron2
            continue
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*rows, ("GPUs", ", ".join(gpus) or "none"), ("CPU threads", torch.get_num_threads())]


def _model(name: str) -> list[tuple[str, object]]:
    """Rows about a model.

    Raises:
        FileNotFoundError, ValueError, KeyError: see `find_config`, `load_config` and `config_of_checkpoint`.
    """
    path = find_config(name)  # or the checkpoint itself

    from ..api.find import config_of_checkpoint
    from ..config_loader import load_config

    if Path(name).is_file() and not name.endswith(CONFIG_SUFFIXES):
        cfg = config_of_checkpoint(name)
        if cfg is None:
            return [("checkpoint", name), ("config", "none in this file or beside it"), *_weights(name)]
        return [("checkpoint", name), *_described(cfg), *_weights(name)]
    cfg = load_config(path, [])
    rows = [("config", path), *_described(cfg), *_size(cfg)]
    if Path(name).is_dir():
        rows += [("checkpoints", ", ".join(sorted(file.name for file in Path(name).glob("*.pth"))) or "none")]
        rows += [(str(file.parent), _metrics(file)) for file in sorted(Path(name).rglob("metrics.json"))]
    return rows


def _described(cfg: "CfgNode") -> list[tuple[str, object]]:
    from ..api.saved_model import image_encoder
    from ..data import register_folders, with_classes

    if not cfg.MODEL.PROMPT.CLASS_NAMES:
        register_folders(cfg)
    cfg = with_classes(cfg)
    names = list(cfg.MODEL.PROMPT.CLASS_NAMES)
    return [
        ("architecture", f"{cfg.MODEL.META_ARCHITECTURE}, image encoder {image_encoder(cfg)}"),
        ("trained on", ", ".join(cfg.DATASETS.TRAIN) or "-"),
        ("evaluated on", ", ".join(cfg.DATASETS.TEST) or "-"),
        ("schedule", f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images"),
        ("classes", f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}: {', '.join(names)}"),
    ]


def _size(cfg: "CfgNode") -> list[tuple[str, object]]:
    """The number of parameters, counted without giving them memory or values."""
    import torch
    from detectron2.modeling import build_model

    from ..data import with_classes
    from ..engine.trained_model import without_clip_weights

    cfg = without_clip_weights(with_classes(cfg))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return [("parameters", f"{total / 1e6:.1f} million, {trained / 1e6:.1f} of them trained")]


def _weights(path: str) -> list[tuple[str, object]]:
    from ..checkpoint import read_checkpoint

    content = read_checkpoint(path)
    weights = content.get("model", content)
    numbers = sum(value.numel() for value in weights.values() if hasattr(value, "numel"))
    rows: list[tuple[str, object]] = [("weights", f"{len(weights)} tensors, {numbers / 1e6:.1f} million numbers")]
    return [*rows, ("iteration", content["iteration"] + 1)] if "iteration" in content else rows


def _metrics(path: Path) -> str:
    """The means of a metrics.json, without those of single classes."""
    means = {name.split("/")[-1]: value for name, value in read_json(path).items()}
    return ", ".join(
        f"{name} {value:.2f}" for name, value in means.items() if isinstance(value, float) and "-" not in name
    )
