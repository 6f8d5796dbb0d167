"""The process of one peer of tools/benchmark.py: builds a model, then times one run for each line on stdin.

A line is a JSON object of settings that change from there on: dtype, size, batch; {} changes nothing.
"""

import argparse
import contextlib
import functools
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


def training(args: argparse.Namespace, *options: object, text: bool = True, plain: bool = False) -> Stages:
    """One training step without the optimizer: of our models, or of the plain MTA-CLIP of plain_reference.py."""
    from plain_reference import plain_losses

    model = build_ours(args, text, *options).train()

    def loss(images: Tensor) -> Tensor:
        labels = label_maps(images.shape, args.classes)
        losses = plain_losses(model, images, labels) if plain else model.losses(images, labels)
        return sum(losses.values())

    return training_step(model, loss)


def transformers_training(args: argparse.Namespace) -> Stages:
    """One training step of transformers' Mask2Former R50 without the optimizer; it gets its masks ready-made."""
    model = build_transformers(args).train()

    @functools.cache
    def targets(shape: torch.Size) -> dict[str, list[Tensor]]:
        maps = label_maps(shape, args.classes).to(args.device)
        present = [labels.unique() for labels in maps]
        masks = [(labels == classes[:, None, None]).float() for labels, classes in zip(maps, present, strict=True)]
        return {"mask_labels": masks, "class_labels": present}

    return training_step(model, lambda images: model(pixel_values=images, **targets(images.shape)).loss)


def training_step(model: torch.nn.Module, loss: Callable[[Tensor], Tensor]) -> Stages:
    def backward(values: dict) -> dict:
        values.pop("loss").backward()
        model.zero_grad()
        return {}

    return {"forward": lambda values: {"loss": loss(values["images"])}, "backward": backward}


@functools.cache
def label_maps(shape: torch.Size, classes: int) -> Tensor:
    """(B, H, W) int64 on the CPU, as a loader gives them, for images of shape (B, 3, H, W)."""
    blocks = torch.randint(0, classes, (shape[0], 1, *LABELLED_REGIONS)).float()
    return torch.nn.functional.interpolate(blocks, shape[-2:]).long()[:, 0]


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
    cfg.TEST.PRECISION = "float32" if args.dtype == "tf32" else args.dtype
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

    model = build_transformers(args).eval()
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


def build_transformers(args: argparse.Namespace) -> torch.nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=args.classes)
    return transformers.Mask2FormerForUniversalSegmentation(config).to(args.device)


def official_mask2former(args: argparse.Namespace) -> Stages:
    """The official Mask2Former R50 with its own post-processing, in one stage, as its model has no other entry."""
    from official_mask2former import build

    model = build(args.official, classes=args.classes, device=args.device)

    def segment(values: dict) -> dict:
        results = model([{"image": image} for image in values["images"]])
        return {"labels": [result["sem_seg"].argmax(dim=0) for result in results]}

    return {"image to labels": segment}


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
        "mask2former-r50": lambda args: training(args, text=False),
        "mta-clip-rn50": training,
        "mta-clip-rn50-checkpointing": lambda args: training(args, "MODEL.SEM_SEG_HEAD.CHECKPOINTING", True),
        "mta-clip-rn50-text-checkpointing": lambda args: training(args, "MODEL.CLIP.TEXT_CHECKPOINTING", True),
        "mta-clip-rn50-plain": lambda args: training(args, plain=True),
        "transformers-mask2former-r50": transformers_training,
    },
}


def run(stages: Stages, images: Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Seconds per stage of one run, or of one window if images are processed in windows.

    On a GPU these are times between CUDA events: the stages follow each other without waiting for it.
    """
    on_cuda = images.device.type == "cuda"
    if on_cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.dtype == "tf32"
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    reduced = args.dtype in ("bfloat16", "float16")
    values, marks = {"images": images}, [mark(args)]
    with torch.set_grad_enabled(args.mode == "train"):
        for name, stage in stages.items():
            # as in training: backward runs in the data types of forward
            autocast = reduced and name != "backward"
            with torch.autocast(args.device, getattr(torch, args.dtype)) if autocast else contextlib.nullcontext():
                values.update(stage(values))
            marks.append(mark(args))
    if on_cuda:
        torch.cuda.synchronize()
    windows = values.get("images processed", 1)
    return {name: between(*pair) / windows for name, pair in zip(stages, itertools.pairwise(marks), strict=True)}


def mark(args: argparse.Namespace) -> "float | torch.cuda.Event":
    """A point in time: of the GPU's work, or seconds of a clock."""
    if args.device == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter() if args.clock == "wall" else time.process_time()


def between(start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    """Seconds between two marks, which a GPU must have passed."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


def peak_memory_mib(device: str) -> float:
    """On a GPU, of tensors since the last run began; else of the whole process, ever."""
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
    about = {name: getattr(args, name) for name in ("mode", "dtype", "compile", "threads", "clock", "batch")}
    # Memory of libraries and weights, which does not depend on what is run.
    answer({**about, "torch": torch.__version__, "start_memory_mib": peak_memory_mib(args.device)})
    images = torch.empty(0)
    for line in sys.stdin:
        vars(args).update(json.loads(line))
        shape = (args.batch, 3, args.size, args.size)
        if images.shape != shape:
            images = torch.randn(shape, device=args.device)
        seconds = run(stages, images, args)
        answer({"stages": seconds, "peak_memory_mib": peak_memory_mib(args.device)})


def answer(message: dict) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
