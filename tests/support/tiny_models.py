"""Miniature MTA-CLIP and Mask2Former models, inputs and helpers that several test files share."""

from pathlib import Path

import torch
import transformers
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from mta_clip.config import get_cfg
from mta_clip.modeling import MTACLIP

NAMES = ["sky", "red car", "tree", "a long house"]
IGNORE = 255
TAG_CLIP = (  # overrides that make a TagCLIP of a tiny MTA-CLIP
    *("MODEL.META_ARCHITECTURE", "TagCLIP", "MODEL.BACKBONE.NAME", "PromptedImageEncoder"),
    *("MODEL.SEM_SEG_HEAD.NAME", "TrustyHead", "MODEL.CLIP.NAME", "mta-tiny-vit", "MODEL.TAGCLIP.NUM_PROMPTS", 2),
    *("MODEL.TAGCLIP.IMAGE_SIZE", [64, 64], "DATASETS.UNSEEN_CLASSES", NAMES[2:]),
)


def tiny_config(*overrides, text: bool = True) -> CfgNode:
    """A config of a model that takes milliseconds; `overrides` are KEY, VALUE, KEY, VALUE, ..."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.CLIP.QUICK_GELU = "mta-tiny", "", False
    cfg.MODEL.PROMPT.CLASS_NAMES = NAMES
    cfg.MODEL.PROMPT.NUM_CONTEXTS, cfg.MODEL.PROMPT.CONTEXT_LENGTH = 2, 3
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(NAMES)
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 32
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 1
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD = 64
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 2
    node = cfg.MODEL.MASK_FORMER
    node.HIDDEN_DIM, node.NHEADS, node.DIM_FEEDFORWARD, node.DEC_LAYERS = 32, 2, 64, 4
    node.NUM_OBJECT_QUERIES, node.TRAIN_NUM_POINTS = 10, 128
    if not text:
        cfg.MODEL.PROMPT.NAME = ""
        node.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    cfg.merge_from_list(list(overrides))
    return cfg


def tiny_tag_clip_config() -> CfgNode:
    """The same for TagCLIP."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "TagCLIP", "cpu"
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "mta-tiny-vit", ""
    cfg.MODEL.PROMPT.CLASS_NAMES, cfg.DATASETS.UNSEEN_CLASSES = NAMES, NAMES[:1]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(NAMES)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME = "PromptedImageEncoder", "TrustyHead"
    cfg.MODEL.TAGCLIP.NUM_PROMPTS, cfg.MODEL.TAGCLIP.IMAGE_SIZE, cfg.MODEL.TAGCLIP.DROPOUT = 2, [64, 64], 0.0
    return cfg


def tiny_model(*overrides, text: bool = True, seed: int = 0) -> MTACLIP:
    torch.manual_seed(seed)
    return build_model(tiny_config(*overrides, text=text))


def save_tiny_bert(folder: Path) -> str:
    """Saves a random BERT with its tokenizer as transformers does; returns its MODEL.CLIP.TEXT_NAME."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "ring", "disc", "a", "none"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=60, max_position_embeddings=20, **sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return f"hf:{folder}"


def _grid_points(num_sets: int, num_points: int, device: torch.device) -> torch.Tensor:
    """The same points at every call."""
    generator = torch.Generator().manual_seed(num_points)
    return torch.rand(1, num_points, 2, generator=generator).expand(num_sets, -1, -1).to(device)


def same_points(model: MTACLIP) -> None:
    """The criterion no longer draws random points, so that losses do not depend on who draws first."""
    for part in (model.criterion.matcher, model.criterion.mask_loss):
        part.draw_points = _grid_points


def batch(count: int = 2, size: tuple[int, int] = (64, 72), seed: int = 1) -> list[dict]:
    """Images of coloured blocks whose labels follow their colour, with some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    colors = torch.randint(0, 256, (len(NAMES), 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    samples = []
    for _ in range(count):
        blocks = torch.randint(0, len(NAMES), (4, 4), generator=generator)
        rows = torch.arange(size[0]) * 4 // size[0]
        columns = torch.arange(size[1]) * 4 // size[1]
        labels = blocks[rows][:, columns]
        image = colors[labels].permute(2, 0, 1).contiguous()
        labels = labels.clone()
        labels[:2] = IGNORE
        samples.append({"image": image, "sem_seg": labels})
    return samples


def accuracy(model: MTACLIP, sample: dict) -> float:
    """Mean IoU of a model on one sample, 0..1."""
    model.eval()
    predicted = model([sample])[0]["sem_seg"].argmax(0)
    truth, valid = sample["sem_seg"], sample["sem_seg"] != IGNORE
    ious: list[Tensor] = []
    for label in truth[valid].unique():
        a, b = (predicted == label) & valid, (truth == label) & valid
        ious.append((a & b).sum() / (a | b).sum())
    return torch.stack(ious).mean().item()
