"""Tiny trained models as `Segmenter`s, and the folder of a run, for tests of what users do with them."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_models import tiny_config

from mta_clip.api.segmenter import Segmenter
from mta_clip.checkpoint import SegmentationCheckpointer
from mta_clip.config import get_cfg

METRICS = {"sem_seg/mIoU": 48.375, "sem_seg/IoU-sky": 90.0}


def mta_clip_config(*overrides, text: bool = True) -> CfgNode:
    """MTA-CLIP (or Mask2Former) for images of 64 pixels."""
    sizes = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128]
    return tiny_config("DATASETS.TRAIN", (), *sizes, *overrides, text=text)


def tag_clip_config() -> CfgNode:
    """TagCLIP with a class held out of training."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TagCLIP"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME = "PromptedImageEncoder", "TrustyHead"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "mta-tiny-vit", ""
    cfg.MODEL.PROMPT.CLASS_NAMES = ["red disc", "blue ring", "green square"]
    cfg.MODEL.TAGCLIP.NUM_PROMPTS, cfg.MODEL.TAGCLIP.IMAGE_SIZE = 2, [32, 32]
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNSEEN_CLASSES = (), ["green square"]
    cfg.INPUT.MIN_SIZE_TEST = 32
    return cfg


def segmenter(cfg: CfgNode, **options) -> Segmenter:
    """A segmenter of random weights."""
    torch.manual_seed(0)
    return Segmenter(build_model(cfg).eval(), cfg, **options)


def write_run(folder: Path, cfg: CfgNode) -> Path:
    """What training leaves in its folder: config.yaml, model_final.pth and last_checkpoint."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(cfg.dump())
    SegmentationCheckpointer(build_model(cfg), str(folder), config=cfg.dump()).save("model_final")
    return folder
