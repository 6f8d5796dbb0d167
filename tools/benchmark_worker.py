"""The process behind one peer of tools/benchmark.py: builds a model, then times one run per line on stdin."""

import argparse
import contextlib
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

Stages = dict[str, Callable[[dict], dict]]  # name -> function from the values so far to new values


def ours(args: argparse.Namespace, text: bool) -> Stages:
    """Inference stages of a model of this package, from normalised image to label map."""
    from mta_clip.modeling.inference.semantic import semantic_labels

    model = build_ours(args, text).eval()
    head, learner = model.sem_seg_head, model.prompt_learner

    def decode(values: dict) -> dict:
        return {"prediction": head.transformer_decoder(values["memories"], values["mask_features"], values["text"])}

    def pixel_decode(values: dict) -> dict:
        mask_features, memories = head.pixel_decoder(values["features"])
        return {"mask_features": mask_features, "memories": memories}

    def output(values: dict) -> dict:
        prediction = values["prediction"]
        class_probs = model.mask_classifier(prediction.final)
        size = values["images"].shape[-2:]
        return {"labels": semantic_labels(class_probs, prediction.mask_logits(), size)}

    return {
        "encoder": lambda values: {"features": model.backbone(values["images"])},
        "text": lambda values: {"text": None if learner is None else learner()},
        "pixel decoder": pixel_decode,
        "decoder": decode,
        "output": output,
    }


def build_ours(args: argparse.Namespace, text: bool) -> torch.nn.Module:
    from detectron2.modeling import build_model

    import mta_clip  # noqa: F401
    from mta_clip.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.DEVICE = args.device
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = args.classes
    cfg.MODEL.PROMPT.CLASS_NAMES = [f"class {i}" for i in range(args.classes)]
    cfg.MODEL.PROMPT.NUM_CONTEXTS = args.contexts
    if not text:
        cfg.MODEL.PROMPT.NAME = ""
        cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    return build_model(cfg)


def transformers_mask2former(args: argparse.Namespace) -> Stages:
    """transformers' Mask2Former R50 with its own semantic post-processing."""
    import transformers

    transformers.logging.set_verbosity_error()
    backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=args.classes)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval().to(args.device)
    process = transformers.Mask2FormerImageProcessor().post_process_semantic_segmentation
    pixel_level = model.model.pixel_level_module

    def decode(values: dict) -> dict:
        decoded = values["decoded"]
        out = model.model.transformer_module(
            multi_scale_features=decoded.multi_scale_features, mask_features=decoded.mask_features
        )
        queries = out.intermediate_hidden_states[-1].transpose(0, 1)
        return {"classes": model.class_predictor(queries), "masks": out.masks_queries_logits[-1]}

    def output(values: dict) -> dict:
        size = tuple(values["images"].shape[-2:])
        prediction = argparse.Namespace(class_queries_logits=values["classes"], masks_queries_logits=values["masks"])
        return {"labels": process(prediction, target_sizes=[size] * len(values["images"]))}

    return {
        "encoder": lambda values: {"features": pixel_level.encoder(values["images"]).feature_maps},
        "pixel decoder": lambda values: {"decoded": pixel_level.decoder(values["features"])},
        "decoder": decode,
        "output": output,
    }


PEERS = {
    "mask2former-r50": lambda args: ours(args, text=False),
    "mta-clip-rn50": lambda args: ours(args, text=True),
    "transformers-mask2former-r50": transformers_mask2former,
}


def run(stages: Stages, images: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Seconds per stage of one run."""
    device = images.device.type
    autocast = torch.autocast(device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    values, seconds = {"images": images}, {}
    with torch.no_grad(), autocast:
        for name, stage in stages.items():
            start = now(device)
            values.update(stage(values))
            seconds[name] = now(device) - start
    return seconds


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("mode", choices=["infer", "train"])
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    for option in ("size", "batch", "threads", "classes", "contexts"):
        parser.add_argument(f"--{option}", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    stages = PEERS[args.peer](args)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    answer({"mode": args.mode, "dtype": args.dtype, "threads": args.threads, "torch": torch.__version__})
    for _ in sys.stdin:
        seconds = run(stages, images, getattr(torch, args.dtype))
        answer({"stages": seconds, "peak_memory_mib": peak_memory_mib(images.device.type)})


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
