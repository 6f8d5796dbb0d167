"""The process of one peer of tools/benchmark.py: builds a model, then times one run for each line on stdin."""

import argparse
import contextlib
import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
warnings.filterwarnings("ignore")

Stages = dict[str, Callable[[dict], dict]]  # name -> function from the values so far to new values
LABELLED_REGIONS = (2, 4)  # rows and columns of the training images' blocks, each of a random class
LARGE_IMAGE = (1024, 2048)  # height, width that windows slide over
PHOTO = (512, 683)  # height, width


def ours(args: argparse.Namespace, text: bool) -> Stages:
    """Inference stages of a model of this package, from normalised image to label map."""
    from mta_clip.modeling.inference import MaskScores, make_output

    model = build_ours(args, text).eval()
    if args.compile:  # as in demo.py
        model.compile(dynamic=False, options={"freezing": True})
    head, learner = model.sem_seg_head, model.prompt_learner

    def decode(values: dict) -> dict:
        return {"prediction": head.transformer_decoder(values["memories"], values["mask_features"], values["text"])}

    def encode(values: dict) -> dict:
        return {"features": model.backbone(values["images"].contiguous(memory_format=torch.channels_last))}

    def pixel_decode(values: dict) -> dict:
        mask_features, memories = head.pixel_decoder(values["features"])
        return {"mask_features": mask_features, "memories": memories}

    def output(values: dict) -> dict:
        prediction, size = values["prediction"], values["images"].shape[-2:]
        class_probs = model.mask_classifier(prediction.final, learner)
        for masks in zip(class_probs, prediction.mask_logits(), strict=True):
            make_output(MaskScores(*masks, size), size, label_maps_only=True)
        return {}

    return {
        "encoder": encode,
        "text": lambda values: {"text": None if learner is None else learner()},
        "pixel decoder": pixel_decode,
        "decoder": decode,
        "output": output,
    }


def sliding(args: argparse.Namespace) -> Stages:
    """MTA-CLIP on a large image in windows, to its label map; the time is that of one window."""
    model = build_ours(
        args,
        True,
        "TEST.SLIDING_WINDOW.ENABLED", True,
        "TEST.SLIDING_WINDOW.SIZE", [args.size, args.size],
        "TEST.SLIDING_WINDOW.BATCH", args.batch,
        "TEST.SEM_SEG.LABEL_MAPS_ONLY", True,
    ).eval()  # fmt: skip
    sample = {"image": torch.randint(0, 256, (3, *LARGE_IMAGE), dtype=torch.uint8)}
    windows = 0

    def count(_module: torch.nn.Module, inputs: tuple) -> None:
        nonlocal windows
        windows += len(inputs[0])

    model.backbone.register_forward_pre_hook(count)

    def label_map(values: dict) -> dict:
        nonlocal windows
        windows = 0
        model([sample])
        return {"images processed": windows}

    return {"windows": label_map}


def photo(args: argparse.Namespace, config: str = "") -> Stages:
    """MTA-CLIP, or the model of a config, from a photo to its label map, as in evaluation."""
    model = build_ours(args, True, "TEST.SEM_SEG.LABEL_MAPS_ONLY", True, config=config).eval()
    sample = {"image": torch.randint(0, 256, (3, *PHOTO), dtype=torch.uint8)}
    return {"photo to labels": lambda values: {"labels": model([sample])}}


def training(args: argparse.Namespace, *options: object, plain: bool = False) -> Stages:
    """One training step of MTA-CLIP without the optimizer: ours, or the plain one of plain_reference.py."""
    from plain_reference import plain_losses

    model = build_ours(args, True, *options).train()
    blocks = torch.randint(0, args.classes, (args.batch, 1, *LABELLED_REGIONS)).float()
    labels = torch.nn.functional.interpolate(blocks, (args.size, args.size)).long()[:, 0]

    def forward(values: dict) -> dict:
        losses = plain_losses(model, values["images"], labels) if plain else model.losses(values["images"], labels)
        return {"loss": sum(losses.values())}

    def backward(values: dict) -> dict:
        values.pop("loss").backward()
        model.zero_grad()
        return {}

    return {"forward": forward, "backward": backward}


def build_ours(args: argparse.Namespace, text: bool, *options: object, config: str = "") -> torch.nn.Module:
    from mta_clip.config_loader import load_config  # isort: skip  first, as it makes detectron2 importable
    from detectron2.data import MetadataCatalog
    from detectron2.modeling import build_model

    cfg = load_config(str(ROOT / config) if config else "", [])
    cfg.MODEL.DEVICE = args.device
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = args.classes
    ade = MetadataCatalog.get("ade20k_150_sem_seg_val").stuff_classes
    cfg.MODEL.PROMPT.CLASS_NAMES = list(itertools.islice(itertools.cycle(ade), args.classes))
    cfg.MODEL.PROMPT.NUM_CONTEXTS = args.contexts
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION = False
    cfg.TEST.PRECISION = args.dtype
    cfg.MODEL.COMPILE = args.compile
    cfg.merge_from_list(list(options))
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


def official_mask2former(args: argparse.Namespace) -> Stages:
    """The official Mask2Former R50 with its own post-processing, in one stage, as its model has no other entry."""
    from official_mask2former import build

    model = build(args.official, classes=args.classes, device=args.device)

    def label_maps(values: dict) -> dict:
        results = model([{"image": image} for image in values["images"]])
        return {"labels": [result["sem_seg"].argmax(dim=0) for result in results]}

    return {"image to labels": label_maps}


PEERS = {
    "infer": {
        "mask2former-r50": lambda args: ours(args, text=False),
        "mta-clip-rn50": lambda args: ours(args, text=True),
        "mta-clip-rn50-sliding": sliding,
        "mta-clip-rn50-photo": photo,
        "mta-clip-tiny-photo": lambda args: photo(args, "configs/shapes/mta_clip_tiny.yaml"),
        "transformers-mask2former-r50": transformers_mask2former,
        "official-mask2former-r50": official_mask2former,
    },
    "train": {
        "mta-clip-rn50": training,
        "mta-clip-rn50-text-checkpointing": lambda args: training(args, "MODEL.CLIP.TEXT_CHECKPOINTING", True),
        "mta-clip-rn50-plain": lambda args: training(args, plain=True),
    },
}


def run(stages: Stages, images: Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Seconds per stage of one run, or of one window if images are processed in windows."""
    dtype = getattr(torch, args.dtype)
    autocast = torch.autocast(args.device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    values, seconds = {"images": images}, {}
    with torch.set_grad_enabled(args.mode == "train"), autocast:
        for name, stage in stages.items():
            start = now(args)
            values.update(stage(values))
            seconds[name] = (now(args) - start) / values.get("images processed", 1)
    return seconds


def now(args: argparse.Namespace) -> float:
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() if args.clock == "wall" else time.process_time()


def peak_memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("mode", choices=PEERS)
    for option in ("device", "dtype", "clock"):
        parser.add_argument(f"--{option}")
    for option in ("size", "batch", "threads", "classes", "contexts"):
        parser.add_argument(f"--{option}", type=int)
    parser.add_argument("--compile", action="store_true", help="MODEL.COMPILE, for peers of this package")
    parser.add_argument("--official", type=Path, help="checkout of the official Mask2Former, for its peer")
    args = parser.parse_args()
    if args.compile and args.peer.startswith(("transformers", "official")):
        parser.error(f"{args.peer} is measured as its authors build it, not compiled")
    if args.peer.startswith("official") and not args.official:
        parser.error(f"{args.peer} needs --official PATH")
    if args.peer not in PEERS[args.mode]:
        parser.error(f"no peer {args.peer!r} in mode {args.mode}; there are {', '.join(PEERS[args.mode])}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers, and libraries print
        stages = PEERS[args.mode][args.peer](args)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    about = {name: getattr(args, name) for name in ("mode", "dtype", "compile", "threads", "clock")}
    # Memory of libraries and weights, which does not depend on what is run.
    answer({**about, "torch": torch.__version__, "start_memory_mib": peak_memory_mib(args.device)})
    for _ in sys.stdin:
        seconds = run(stages, images, args)
        answer({"stages": seconds, "peak_memory_mib": peak_memory_mib(args.device)})


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
