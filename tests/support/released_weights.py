"""Weights under the names of the projects that released them, from models of this package."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tiny_towers  # noqa: F401  registers timm:tiny_swin
import torch
from golden_files import load, weights
from torch import Tensor, nn

from mta_clip.checkpoint.sources import SOURCES, Dropped, translate
from mta_clip.config import get_cfg

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["wall", "potted plant", "sky", "car", "road"]


def tiny_config(*overrides):
    """A model whose head has the layers and sizes of the head in the reference files."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.CLIP.NAME", "mta-tiny", "MODEL.CLIP.PRETRAINED", ""),
            *("MODEL.PROMPT.CLASS_NAMES", NAMES, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5, "MODEL.PROMPT.INIT_STD", 1.0),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 32),
            *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD", 64),
            *("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 4, "MODEL.MASK_FORMER.NHEADS", 4),
            *("MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 96),
            *("MODEL.MASK_FORMER.DEC_LAYERS", 5, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7),
            *overrides,
        ]
    )
    return cfg


BASELINE = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.PROMPT.NAME", ""),
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
)


SWIN_BASELINE = (*BASELINE, "MODEL.BACKBONE.NAME", "CLIPImageEncoder", "MODEL.CLIP.IMAGE_NAME", "timm:tiny_swin")


def swin_names(*, width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> dict[str, tuple[int, ...]]:
    """Shapes of D2SwinTransformer's parameters and constants by name: mask2former/modeling/backbone/swin.py."""
    shapes = {"patch_embed.proj.weight": (width, 3, 4, 4)}
    shapes |= dict.fromkeys(("patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"), (width,))
    for stage, (depth, stage_heads) in enumerate(zip(depths, heads, strict=True)):
        c, tokens = width * 2**stage, window**2
        shapes |= {f"norm{stage}.{kind}": (c,) for kind in ("weight", "bias")}
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}."
            shapes |= {
                f"{prefix}attn.relative_position_bias_table": ((2 * window - 1) ** 2, stage_heads),
                f"{prefix}attn.relative_position_index": (tokens, tokens),
            }
            for layer, (rows, columns) in {
                "attn.qkv": (3 * c, c), "attn.proj": (c, c), "mlp.fc1": (4 * c, c), "mlp.fc2": (c, 4 * c),
            }.items():  # fmt: skip
                shapes |= {f"{prefix}{layer}.weight": (rows, columns), f"{prefix}{layer}.bias": (rows,)}
            shapes |= {f"{prefix}{norm}.{kind}": (c,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        if stage < len(depths) - 1:
            prefix = f"layers.{stage}.downsample."
            shapes |= {f"{prefix}norm.{kind}": (4 * c,) for kind in ("weight", "bias")}
            shapes[f"{prefix}reduction.weight"] = (2 * c, 4 * c)
    return shapes


def official_names(file, prefix):
    return [prefix + name for name in weights(load(GOLDEN / file)[1])]


def official_state(model, source, names):
    """The model's values under the given official names; small random numbers for what conversion drops."""
    table, own = SOURCES[source].names, model.state_dict()
    renamed = {name: translate(name, table) for name in names}
    return {name: torch.rand(2) if isinstance(ours, Dropped) else own[ours] for name, ours in renamed.items()}


def mask2former_state(model: nn.Module, backbone_names: Iterable[str] = ()) -> dict[str, Tensor]:
    """The weights of a model of `tiny_config(*BASELINE)` under Mask2Former's names.

    Those of the backbone are by default our own: Detectron2's ResNets have the same.
    """
    names = [*official_names("m2f_a.npz", "sem_seg_head."), "criterion.empty_weight"]
    names += backbone_names or [name for name in model.state_dict() if name.startswith("backbone.")]
    return official_state(model, "mask2former", names)
