"""Weights under the names of the projects that released them, from models of this package."""

from pathlib import Path

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


def official_names(file, prefix):
    return [prefix + name for name in weights(load(GOLDEN / file)[1])]


def official_state(model, source, names):
    """The model's values under the given official names; small random numbers for what conversion drops."""
    table, own = SOURCES[source].names, model.state_dict()
    renamed = {name: translate(name, table) for name in names}
    return {name: torch.rand(2) if isinstance(ours, Dropped) else own[ours] for name, ours in renamed.items()}


def mask2former_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model of `tiny_config(*BASELINE)` under Mask2Former's names."""
    names = [*official_names("m2f_a.npz", "sem_seg_head."), "criterion.empty_weight"]
    names += [name for name in model.state_dict() if name.startswith("backbone.")]
    return official_state(model, "mask2former", names)
