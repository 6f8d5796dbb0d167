"""The folder of a saved model: everything to run it, and nothing of the machine it was trained on.

| file | content |
|---|---|
| config.yaml | the config, with the names of the classes |
| model.safetensors | weights, with those of the frozen towers |
| classes.json | names, colours (RGB 0..255), names held out of training, ignore label; for people and other programs |
| metrics.json | what an evaluation gave, if there was one |
| README.md | a model card with all of this |
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from .. import __version__
from ..checkpoint.writers import save_weights
from ..files import read_json
from ..modeling import SegmentationModel
from ..modeling.clip import knows_language

CONFIG, WEIGHTS, CLASSES, METRICS, CARD = FILES = (
    "config.yaml",
    "model.safetensors",
    "classes.json",
    "metrics.json",
    "README.md",
)
_PART, _MOVING = ".mta-clip.part", ".mta-clip.moving"  # folders of files while they are written, and take their places
_SHOWN_METRICS = ("mIoU", "fwIoU", "mACC", "pACC", "mIoU_seen", "mIoU_unseen", "hIoU", "boundary_mIoU")


def is_saved_model(folder: str | Path) -> bool:
    """Whether a folder holds a saved model."""
    folder = Path(folder)
    return not (folder / _MOVING).is_dir() and all((folder / name).is_file() for name in (CONFIG, WEIGHTS, CLASSES))


def save_model(folder: str | Path, model: SegmentationModel, cfg: CfgNode, *, metrics: Mapping[str, float]) -> Path:
    """Saves a model; a saved model that the folder holds is replaced.

    Args:
        cfg: of the model, with the names of its classes.
        metrics: of an evaluation, by name; {} if there was none.

    Returns:
        The folder.

    Raises:
        FileExistsError: `folder` is a file, or a folder with something else in it.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    part, moving = folder / _PART, folder / _MOVING
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to save the model in")
    if folder.is_dir() and any(folder.iterdir()) and not (is_saved_model(folder) or part.is_dir() or moving.is_dir()):
        raise FileExistsError(f"{folder} holds something else than a saved model; name a new or an empty folder")
    for earlier in (part, moving):  # of an attempt that was cut off
        shutil.rmtree(earlier, ignore_errors=True)
    try:
        _write(part, model, cfg, metrics)
        part.replace(moving)  # until here, what the folder held is untouched; from now on, it is no saved model
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for name in FILES:
        if (moving / name).is_file():
            (moving / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    moving.rmdir()
    return folder


def _write(folder: Path, model: SegmentationModel, cfg: CfgNode, metrics: Mapping[str, float]) -> None:
    save_weights(model.state_dict(), folder / WEIGHTS)
    texts = {
        CONFIG: _portable(cfg).dump(),
        CLASSES: json.dumps(_classes(cfg), indent=2, ensure_ascii=False),
        CARD: model_card(cfg, metrics, takes_names=model.takes_names),
    }
    if metrics:
        texts[METRICS] = json.dumps(metrics, indent=2)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def check_classes(folder: str | Path, cfg: CfgNode) -> None:
    """Checks that classes.json and the config of a saved model say the same.

    Raises:
        ValueError: they differ, or classes.json cannot be read.
    """
    path = Path(folder) / CLASSES
    stored = read_json(path)
    for key, value in _classes(cfg).items():
        if stored.get(key) != value:
            raise ValueError(
                f"{path}: {key!r} is {stored.get(key)!r:.200}, but {CONFIG} beside it says {value!r:.200}. Both "
                "describe the same weights: save the model again, or restore the file that was changed"
            )


def model_card(cfg: CfgNode, metrics: Mapping[str, float], *, takes_names: bool) -> str:
    """The README.md of a saved model; for arguments see `save_model` and `SegmentationModel.takes_names`."""
    names = cfg.MODEL.PROMPT.CLASS_NAMES
    if not takes_names:
        text = "It does not compare masks with text, so it knows only its classes."
    elif knows_language(cfg):
        text = "Other names can be asked for: `model(image, labels=[...])`."
    else:
        text = "Its text tower was not pretrained on language, so names other than its classes mean nothing to it."
    rows = [("method", method_name(cfg)), ("image encoder", image_encoder(cfg)), ("classes", len(names))]
    if cfg.DATASETS.UNSEEN_CLASSES:
        rows.append(("held out of training", ", ".join(cfg.DATASETS.UNSEEN_CLASSES)))
    rows += [("trained on", ", ".join(cfg.DATASETS.TRAIN)), ("evaluated on", ", ".join(cfg.DATASETS.TEST))]
    rows += [("mta-clip", __version__)]
    return _CARD.format(
        facts="\n".join(f"| {key} | {value} |" for key, value in rows),
        text=text,
        metrics=_metrics_table(metrics),
        classes=", ".join(names),
    )


def method_name(cfg: CfgNode) -> str:
    """What a config's method is called: "MTA-CLIP", "Mask2Former", "TagCLIP"."""
    name = cfg.MODEL.META_ARCHITECTURE
    return {"MTACLIP": "MTA-CLIP" if cfg.MODEL.PROMPT.NAME else "Mask2Former"}.get(name, name)


def image_encoder(cfg: CfgNode) -> str:
    """What a config's image encoder is, for people: "CLIP RN50", "timm:resnet18", "build_resnet_backbone"."""
    if not cfg.MODEL.BACKBONE.NAME.endswith("ImageEncoder"):
        return cfg.MODEL.BACKBONE.NAME
    name = cfg.MODEL.CLIP.IMAGE_NAME or cfg.MODEL.CLIP.NAME
    return name if name.startswith("timm:") else f"CLIP {name}"


_CARD = """---
library_name: mta-clip
pipeline_tag: image-segmentation
tags: [semantic-segmentation, mta-clip, detectron2]
---
# Semantic segmentation model

    import mta_clip
    model = mta_clip.load("this folder, or user/name on the Hugging Face Hub")
    result = model("street.jpg")        # result.labels, result.probabilities, result.overlay(), ...

| | |
|---|---|
{facts}

{text}

## Metrics
{metrics}

## Classes
{classes}
"""


def _metrics_table(metrics: Mapping[str, float]) -> str:
    shown = {key: value for key, value in metrics.items() if key.split("/")[-1] in _SHOWN_METRICS}
    if not shown:
        return "This model was saved without metrics."
    lines = [f"| {key} | {value:.2f} |" for key, value in shown.items()]
    return "\n".join(["Percent, as the evaluation after training gave them:", "", "| | |", "|---|---|", *lines])


def _classes(cfg: CfgNode) -> dict[str, Any]:
    return {
        "names": list(cfg.MODEL.PROMPT.CLASS_NAMES),
        "colors": [list(color) for color in cfg.MODEL.CLASS_COLORS],
        "unseen": list(cfg.DATASETS.UNSEEN_CLASSES),
        "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    }


def _portable(cfg: CfgNode) -> CfgNode:
    """A copy of the config without the files and folders of this machine."""
    copy = cfg.clone()
    copy.defrost()
    copy.MODEL.WEIGHTS, copy.MODEL.WEIGHTS_SKIP = "", []
    copy.OUTPUT_DIR, copy.DATASETS.FOLDERS = "./output", []
    return copy
