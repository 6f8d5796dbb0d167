"""Lists which image and text towers of open_clip work here, and why others do not, as docs/towers.md.

    python tools/list_towers.py > docs/towers.md

Every architecture is built without memory for its weights, so that neither a network nor much time is needed.
"""

import json
from functools import cache
from unittest.mock import patch

import open_clip
import torch

from mta_clip.modeling.clip.image_towers import build_feature_tower
from mta_clip.modeling.clip.text_towers import adapt_text_tower, text_dim
from mta_clip.modeling.clip.towers import clip_config

# Sizes of the text encoders that open_clip takes from the Hugging Face hub, from their published config.json
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
HUGGING_FACE = {
    "roberta-base": ("roberta", {}),
    "xlm-roberta-base": ("xlm-roberta", {}),
    "xlm-roberta-large": ("xlm-roberta", _LARGE),
    "google/mt5-base": ("mt5", {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048}),
    "google/mt5-xl": ("mt5", {"d_model": 2048, "num_layers": 24, "num_heads": 32, "d_ff": 5120}),
    "facebook/nllb-200-distilled-600M": ("m2m_100", {"d_model": 1024, "encoder_layers": 12}),
    "facebook/nllb-200-distilled-1.3B": ("m2m_100", {"d_model": 1024, "encoder_layers": 24}),
}

HEADER = """# Towers of open_clip {version}

`MODEL.CLIP.NAME` takes the two towers of an architecture. `MODEL.CLIP.IMAGE_NAME` takes the image tower of another one,
`MODEL.CLIP.TEXT_NAME` the text tower. Of {count} architectures, the image tower of {image} works here, the text tower
of {text}, and both of {both}. `python tools/list_towers.py` builds each, and writes this page.

**Image**: CLIP's ResNets, Swin and *timm's stages* have maps at strides 4, 8, 16, 32. Of a *ViT*, the maps of four
blocks are resized to these strides (`MODEL.CLIP.VIT_FEATURE_BLOCKS`). Besides these towers, `IMAGE_NAME timm:<model>`
takes timm's models of these kinds, such as `timm:vit_small_patch14_dinov2` or `timm:swin_tiny_patch4_window7_224`.

**Text**: *causal* towers run the part that all texts have in common only once. *Bidirectional* towers run every text in
full, at the full context length. Those of *Hugging Face* run every text up to the length of the longest, and need
`mta-clip[hf]`. After the comma stands which output becomes the text features. Besides these towers,
`TEXT_NAME hf:<folder or id>` takes a text model of transformers.

| architecture | image | text | text width |
|---|---|---|---|
"""


def architectures() -> list[str]:
    """open_clip's own architectures, sorted."""
    return sorted(name for name in open_clip.list_models() if not name.startswith(("mta-", "test-")))


def image_tower(name: str) -> str:
    """What the image tower is. Raises ValueError with the reason if it is refused."""
    config = clip_config(name)
    return _image_kind(config["embed_dim"], json.dumps(config["vision_cfg"]))


def text_tower(name: str) -> str:
    """What the text tower is. Raises ValueError with the reason if it is refused."""
    config = clip_config(name)
    return _text_kind(config["embed_dim"], json.dumps(config["text_cfg"]))


@cache  # many architectures share a tower
def _image_kind(embed_dim: int, config: str) -> str:
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(embed_dim, json.loads(config))
        tower = build_feature_tower(visual)
    model = type(tower.visual).__name__
    return f"{tower.kind} ({model})" if tower.kind.startswith("timm's") else tower.kind


@cache
def _text_kind(embed_dim: int, config: str) -> str:
    config = {**json.loads(config), "hf_model_pretrained": False}
    with torch.device("meta"), patch.object(open_clip.hf_model.AutoConfig, "from_pretrained", _hugging_face_config):
        return adapt_text_tower(open_clip.model._build_text_tower(embed_dim, config)).kind


def _hugging_face_config(name: str) -> object:
    from transformers import AutoConfig

    model_type, sizes = HUGGING_FACE[name]
    return AutoConfig.for_model(model_type, **sizes)


def cell(find, name: str) -> str:
    """What `find` says of a tower, or "no: " and the first sentence of its refusal."""
    try:
        return find(name)
    except ValueError as error:
        return f"no: {str(error).split('. ')[0]}"


def table() -> str:
    """The text of docs/towers.md."""
    rows = [(name, cell(image_tower, name), cell(text_tower, name), text_dim(name)) for name in architectures()]
    image, text = ([not row[side].startswith("no: ") for row in rows] for side in (1, 2))
    counts = {
        "count": len(rows),
        "image": sum(image),
        "text": sum(text),
        "both": sum(map(all, zip(image, text, strict=True))),
    }
    header = HEADER.format(version=".".join(open_clip.__version__.split(".")[:2]), **counts)
    return header + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
