"""Builds image towers by name: those of open_clip's architectures, and timm's models as `timm:NAME`."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
from detectron2.config import CfgNode
from torch import nn

from .towers import READ_ERRORS, build_clip, clip_config, clip_key, did_you_mean, weights_file

logger = logging.getLogger(__name__)

TIMM = "timm:"
TIMM_WEIGHTS = "timm"
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}


def image_tower_settings(cfg: CfgNode) -> dict[str, Any]:
    """The arguments `name`, `pretrained` and `quick_gelu` of `build_visual` from a config.

    MODEL.CLIP.NAME's tower unless MODEL.CLIP.IMAGE_NAME names another. QUICK_GELU belongs to NAME: another tower has it
    where its own architecture says so, whatever its weights, as an evaluation is built without them.
    """
    clip = cfg.MODEL.CLIP
    if clip.IMAGE_NAME in ("", clip.NAME):
        return {
            "name": clip.NAME,
            "pretrained": clip.IMAGE_PRETRAINED or clip.PRETRAINED,
            "quick_gelu": clip.QUICK_GELU,
        }
    return {"name": clip.IMAGE_NAME, "pretrained": clip.IMAGE_PRETRAINED, "quick_gelu": False}


def build_visual(*, name: str, pretrained: str = "", quick_gelu: bool = False, drop_path: float = 0.0) -> nn.Module:
    """An image tower in float32 on the CPU: open_clip's, or a timm model.

    Args:
        name: open_clip architecture, or `timm:` and a model of timm, with its tag if it has several, such as
            `timm:swin_tiny_patch4_window7_224.ms_in1k`.
        pretrained: for open_clip see `build_clip`; for timm, `timm` (timm's own download) or the path of a file in
            timm's format, or in one that timm converts (such as the Swin or DINOv2 authors'). "" = random weights.
        quick_gelu: see `build_clip`; timm's models define their activation.
        drop_path: probability that a training step skips a residual branch of the last block, less before it, in
            [0, 1); of timm's models only.

    Raises:
        ValueError: unknown name, `drop_path` for a model without it, or a file that does not fit the model.
        FileNotFoundError, OSError: see `build_clip`.
    """
    if name.startswith(TIMM):
        return _timm_visual(name.removeprefix(TIMM), pretrained, drop_path)
    if drop_path:
        raise ValueError(f"MODEL.CLIP.IMAGE_DROP_PATH {drop_path} is for timm's models (timm:NAME), and {name} is none")
    if "hf_model_name" not in clip_config(name, "IMAGE")["text_cfg"]:
        return build_clip(name=name, pretrained=pretrained, quick_gelu=quick_gelu, part="IMAGE").visual
    return _visual_alone(name, pretrained, quick_gelu)


def warn_of_other_pixels(name: str, pretrained: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Warns if weights were trained with images normalised in another way: by a fifth of std, or more.

    Args:
        name: as in `build_visual`.
        pretrained: as in `build_visual`; random weights, and files of open_clip towers, are not checked.
        mean: MODEL.PIXEL_MEAN, RGB, in 0..255.
        std: MODEL.PIXEL_STD, RGB, in 0..255.
    """
    if not pretrained:
        return
    if name.startswith(TIMM):
        known = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        weights = known.to_dict() if known else {}
    else:
        weights = open_clip.get_pretrained_cfg(name, pretrained)
    if not weights.get("mean") or not weights.get("std"):
        return
    own_mean, own_std = ([round(255 * value, 3) for value in weights[key]] for key in ("mean", "std"))
    same_mean = all(abs(a - b) < 0.2 * s for a, b, s in zip(own_mean, mean, own_std, strict=True))
    if not same_mean or not all(math.isclose(a, b, rel_tol=0.2) for a, b in zip(own_std, std, strict=True)):
        logger.warning(
            "%s was trained with other pixel statistics than MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s; for its "
            "weights, set MODEL.PIXEL_MEAN %s and MODEL.PIXEL_STD %s",
            name, list(mean), list(std), own_mean, own_std,
        )  # fmt: skip


def _timm_visual(name: str, pretrained: str, drop_path: float) -> nn.Module:
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise ValueError(
            f"MODEL.CLIP.IMAGE_NAME: timm has no model {base!r}{did_you_mean(base, timm.list_models())}. "
            "`python -c 'import timm; print(timm.list_models())'` lists all"
        )
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    file = None if pretrained in ("", TIMM_WEIGHTS) else Path(pretrained).expanduser()
    if file and not file.is_file():
        raise FileNotFoundError(
            f"MODEL.CLIP.IMAGE_PRETRAINED: no such file: {file}. Give a file, {TIMM_WEIGHTS!r} (timm's own weights) "
            "or '' for random weights"
        )
    try:
        visual = timm.create_model(name, pretrained=pretrained == TIMM_WEIGHTS, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(f"MODEL.CLIP.IMAGE_DROP_PATH {drop_path}: timm's {name} does not have it ({error})") from error
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"could not build timm's {name} with weights {pretrained!r} ({type(error).__name__}: {error}). If this "
            "machine has no network, download the weights on another one and set MODEL.CLIP.IMAGE_PRETRAINED to the "
            "file; '' gives random weights"
        ) from error
    if file:
        _load_timm_file(visual, name, file)
    return visual


def _load_timm_file(visual: nn.Module, name: str, file: Path) -> None:
    # By timm's convention, a model's module has this function if weights in other formats can be converted.
    convert = getattr(sys.modules[type(visual).__module__], "checkpoint_filter_fn", None)
    try:
        content = timm.models.load_state_dict(str(file), weights_only=True)
        content = convert(content, visual) if convert else content
        classifiers = visual.pretrained_cfg.get("classifier") or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        content = {key: value for key, value in content.items() if not key.startswith((*classifiers, "head."))}
        own = {key for key in visual.state_dict() if not key.startswith("head.")}
        if problems := [*sorted(own - content.keys())[:5], *sorted(content.keys() - visual.state_dict().keys())[:5]]:
            raise ValueError(f"missing or unexpected: {', '.join(problems)}, ...")
        visual.load_state_dict(content, strict=False)
    except READ_ERRORS as error:
        raise ValueError(
            f"MODEL.CLIP.IMAGE_PRETRAINED: {file} does not hold weights of timm's {name}: {error}"
        ) from error


def _visual_alone(name: str, pretrained: str, quick_gelu: bool) -> nn.Module:
    """The image tower of an architecture whose text tower would need Hugging Face's transformers."""
    config = clip_config(name, "IMAGE")
    quick_gelu = quick_gelu or config.get("quick_gelu", False)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], _NO_TEXT, quick_gelu=quick_gelu)
    if pretrained:
        file = weights_file(name, pretrained, "IMAGE")
        try:
            content = open_clip.factory.load_state_dict(str(file), weights_only=True)
            content = {key: value for key, value in content.items() if key.startswith("visual.")}
            open_clip.model.resize_pos_embed(content, model)
            model.visual.load_state_dict({key.removeprefix("visual."): value for key, value in content.items()})
        except READ_ERRORS as error:
            key = clip_key("PRETRAINED", "IMAGE")
            raise ValueError(f"{key}: {file} does not hold weights of {name}: {error}") from error
    return model.visual
