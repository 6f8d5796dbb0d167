"""Runs exported graphs with the libraries they are for; all take and return tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_models import tiny_config
from torch import Tensor, nn
from torch.nn import functional as F

from mta_clip.config import get_cfg
from mta_clip.modeling import TagCLIP

Runner = Callable[..., list[Tensor]]


def tiny_tag_clip_config() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "TagCLIP", "cpu"
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "mta-tiny-vit", ""
    cfg.MODEL.PROMPT.CLASS_NAMES = NAMES
    cfg.DATASETS.UNSEEN_CLASSES = NAMES[:1]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(NAMES)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME = "PromptedImageEncoder", "TrustyHead"
    cfg.INPUT.MIN_SIZE_TEST = 0  # images keep their size
    cfg.MODEL.TAGCLIP.NUM_PROMPTS, cfg.MODEL.TAGCLIP.IMAGE_SIZE, cfg.MODEL.TAGCLIP.NHEADS = 2, [64, 64], 4
    return cfg


NAMES = ["sky", "red car", "tree", "a long house"]
OTHER_NAMES = ["a cat", "sky", "grass", "red car", "moon", "tree"]
ONE_LAYER = ("MODEL.MASK_FORMER.DEC_LAYERS", 2)  # half the time to trace
CONFIGS = {
    "MTACLIP": lambda: tiny_config(*ONE_LAYER),
    "Mask2Former": lambda: tiny_config(*ONE_LAYER, text=False),
    "TagCLIP": tiny_tag_clip_config,
}


def tiny(name: str) -> tuple[nn.Module, CfgNode]:
    """A model and its config; the weights are random, but spread so wide that pixels differ in their labels."""
    cfg = CONFIGS[name]()
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if isinstance(model, TagCLIP):
        spread = {model.head.decoder.layers[-1].cross_attn.k.weight: 30}
    else:
        decoder = model.sem_seg_head.transformer_decoder
        spread = {decoder.class_embed.weight: 20, decoder.mask_embed.layers[-1].weight: 20}
        if hasattr(decoder, "mask_align"):
            spread[decoder.mask_align.bias] = 0
    with torch.no_grad():
        for parameter, factor in spread.items():
            parameter.mul_(factor)
    return model, cfg


def random_images(count: int, size: tuple[int, int]) -> Tensor:
    """Images of coloured blocks, (B, 3, H, W) uint8."""
    blocks = torch.randint(0, 256, (count, 3, 4, 4)).float()
    return F.interpolate(blocks, size).to(torch.uint8)


@torch.no_grad()
def eager(model: nn.Module, images: Tensor) -> Tensor:
    """Scores (B, C, H, W) by the model itself."""
    return torch.stack([output["sem_seg"] for output in model([{"image": image} for image in images])])


def name_tensors(model: nn.Module, names: list[str]) -> list[Tensor]:
    """What open graphs take for these names."""
    from mta_clip.export import text_features

    return [text_features(model, names), *([model.seen_mask(names)] if isinstance(model, TagCLIP) else [])]


def check_close(scores: Tensor, wanted: Tensor) -> None:
    """Scores are equal up to 1e-3, and labels, of which there are several, at 99.9 % of the pixels."""
    assert scores.shape == wanted.shape and len(wanted.argmax(1).unique()) > 1
    assert (scores - wanted).abs().max() < 1e-3
    assert (scores.argmax(1) == wanted.argmax(1)).float().mean() > 0.999


def onnxruntime_runner(path: Path) -> Runner:
    session = pytest.importorskip("onnxruntime", reason="pip install 'mta-clip[onnx]'").InferenceSession(path)
    names = [value.name for value in session.get_inputs()]

    def run(*tensors: Tensor) -> list[Tensor]:
        inputs = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, inputs)]

    return run


def openvino_runner(path: Path) -> Runner:
    openvino = pytest.importorskip("openvino", reason="pip install 'mta-clip[openvino]'")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*tensors: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array.copy()) for array in compiled([t.numpy() for t in tensors]).values()]

    return run


def torch_runner(path: Path) -> Runner:
    module = torch.export.load(path).module(check_guards=False)

    def run(*tensors: Tensor) -> list[Tensor]:
        nested = (tensors[0], tuple(tensors[1:3]), tuple(tensors[3:])) if len(tensors) > 1 else tensors
        result = module(*nested)
        return [result] if isinstance(result, Tensor) else list(result)

    return run
