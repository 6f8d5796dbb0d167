"""Builds open_clip models by name, with weights from a tag, from a local file, or with random weights.

Two tiny architectures of this package are registered with open_clip: `mta-tiny` (ResNet) and `mta-tiny-vit`, small
enough to train from scratch on a CPU. Their text towers use CLIP's own vocabulary.
"""

import difflib
import logging
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import open_clip
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint.readers import read_checkpoint
from ...checkpoint.sources import OPENAI_CLIP, Dropped, translate
from ...extras import import_extra

logger = logging.getLogger(__name__)

# Raised by open_clip's and timm's readers for wrong or damaged files.
READ_ERRORS = (
    RuntimeError, KeyError, AttributeError, TypeError, ValueError, StopIteration, EOFError, pickle.UnpicklingError,
    SafetensorError,
)  # fmt: skip

open_clip.add_model_config(Path(__file__).parent / "model_configs")


def build_clip(*, name: str, pretrained: str = "", quick_gelu: bool = False, part: str = "") -> nn.Module:
    """An open_clip `CLIP`, `CustomTextCLIP` or `CoCa` with both towers, in float32 on the CPU.

    Args:
        name: open_clip architecture, e.g. `RN50`, `ViT-B-16`, `convnext_base`, `mta-tiny`.
        pretrained: open_clip tag (downloaded into the Hugging Face cache on first use), path of an open_clip checkpoint
            or of an OpenAI TorchScript archive, or "" for random weights.
        quick_gelu: replaces GELU by x * sigmoid(1.702 x), as in OpenAI's weights. Architectures whose own configuration
            sets it (`RN50-quickgelu`) always have it. In ResNets and timm image towers it affects only the text tower.
        part: tower that is wanted, "IMAGE" or "TEXT", so that errors name its keys too; "" = both.

    Raises:
        ValueError: unknown architecture or tag, a file that does not fit the architecture, or `quick_gelu` where the
            architecture has an activation of its own.
        ModuleNotFoundError: the text tower needs transformers, which is not installed.
        FileNotFoundError: `pretrained` looks like a path, but there is no such file.
        OSError: the weights of a tag could not be downloaded.
    """
    config = clip_config(name, part)
    weights = weights_file(name, pretrained, part) if pretrained else None
    config["quick_gelu"] = quick_gelu = quick_gelu or config.get("quick_gelu", False)
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    if tag and tag.get("quick_gelu", False) != quick_gelu:
        logger.warning(
            f"{name}: the weights {pretrained!r} were trained with quick_gelu={not quick_gelu}, but the model is "
            f"built with {quick_gelu}; set MODEL.CLIP.QUICK_GELU {not quick_gelu} (for a tower that is named by "
            "itself, take the architecture's name with or without -quickgelu) unless this is intended"
        )
    if quick_gelu and config["text_cfg"].get("act_kwargs"):
        raise ValueError(f"{name} has an activation of its own: set MODEL.CLIP.QUICK_GELU False")
    if "hf_model_name" in config["text_cfg"]:
        import_extra("transformers", "hf", f"the text tower of {name}")
        config["text_cfg"]["hf_model_pretrained"] = False  # its weights come with those of the image tower
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    plain = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model = (open_clip.CoCa if "multimodal_cfg" in config else plain)(**config)
    if weights:
        _load_weights(model, name, weights, part)
    for module in list(model.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, open_clip.transformer.QuickGELU):
                setattr(module, child_name, QuickGELU())
    return model


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), computed so that the backward pass needs one stored tensor of the size of x, not two."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as x."""
        return F.silu(1.702 * x) / 1.702


def clip_config(name: str, part: str = "") -> dict:
    """A copy of open_clip's configuration of an architecture; for `part` see `build_clip`.

    Raises:
        ValueError: unknown architecture; the message lists similar names.
    """
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        raise ValueError(
            f"{clip_key('NAME', part)}: open_clip has no architecture {name!r}"
            f"{did_you_mean(name, open_clip.list_models())}. `python -c 'import open_clip; "
            "print(open_clip.list_models())'` lists all"
        )
    return config


def clip_key(key: str, part: str = "") -> str:
    """How messages name a key of MODEL.CLIP that a tower can also have for itself; for `part` see `build_clip`."""
    return f"MODEL.CLIP.{key} or {part}_{key}" if part else f"MODEL.CLIP.{key}"


def did_you_mean(wanted: str, known: Sequence[str]) -> str:
    """A part of an error message that lists names like the wanted one; "" if there are none."""
    by_lower_case = {option.lower(): option for option in known}
    close = difflib.get_close_matches(wanted.lower(), by_lower_case, n=5, cutoff=0.5)
    return f"; did you mean {', '.join(by_lower_case[option] for option in close)}?" if close else ""


def weights_file(name: str, pretrained: str, part: str = "") -> Path:
    """The local file that `pretrained` stands for; a tag is downloaded. For `part` see `build_clip`.

    Raises:
        ValueError, FileNotFoundError, OSError: see `build_clip`.
    """
    path, key = Path(pretrained).expanduser(), clip_key("PRETRAINED", part)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"{key}: no such file: {path}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag_config = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag_config:
        raise ValueError(
            f"{key}: {pretrained!r} is neither a file nor a tag of {name}"
            f"{did_you_mean(pretrained, tags) or '.'} Its tags: {', '.join(tags) or 'none'}. Give one of them, a "
            "local file, or '' for random weights"
        )
    try:
        return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:  # by version, the hub client raises its own errors or those of requests or httpx
        raise OSError(
            f"could not download the weights {pretrained!r} of {name} ({type(error).__name__}: {error}). If this "
            "machine has no network, download them on another one (source: "
            f"{tag_config.get('hf_hub') or tag_config.get('url')!r}) and set {key} to the local file, or copy "
            "the Hugging Face cache folder (~/.cache/huggingface, or $HF_HOME) to this machine. Tags of this "
            f"architecture: {', '.join(tags)}. {key} '' gives random weights"
        ) from error


def _load_weights(model: nn.Module, name: str, path: Path, part: str) -> None:
    try:
        if _is_torchscript(path):
            content = read_checkpoint(path)
            renamed = {key: translate(key, OPENAI_CLIP) for key in content}
            model.load_state_dict({key: content[key] for key in content if not isinstance(renamed[key], Dropped)})
        else:
            open_clip.load_checkpoint(model, str(path), weights_only=True)
    except READ_ERRORS as error:
        key = clip_key("PRETRAINED", part)
        raise ValueError(f"{key}: {path} does not hold weights of {name}: {error}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())
