"""Times one model from image to label map in PyTorch, onnxruntime and OpenVINO, in rounds; gives medians and ratios.

    python tools/export_benchmark.py --config-file configs/ade20k/mta_clip_rn50.yaml
    python tools/export_benchmark.py --config-file output/demo/config.yaml --size 96 128 --rounds 20
    python tools/export_benchmark.py ... --peers eager openvino openvino:bfloat16 --batch 4

Weights are random, as time does not depend on them. All peers get the same image of uint8 numbers and give a label map
of the same size; the graphs are exported for exactly this size, with `--free-size` for any. Only ratios between peers
of one run mean anything on a shared machine.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tabulate
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from numpy.typing import NDArray

from mta_clip.cli.options import parse
from mta_clip.config_loader import load_config
from mta_clip.data import with_classes
from mta_clip.engine.trained_model import without_clip_weights
from mta_clip.export import export_model
from mta_clip.extras import import_extra

Run = Callable[[NDArray], NDArray]  # images (B, 3, H, W) uint8 -> labels (B, H, W)
PEERS = (
    "eager",
    "eager:compile",
    "eager:bfloat16",
    "eager:bfloat16:compile",
    "onnxruntime",
    "openvino",
    "openvino:bfloat16",
)


def pytorch_peer(cfg: CfgNode, settings: set[str]) -> Run:
    """The model itself, as `SegmentationPredictor` runs it."""
    cfg = cfg.clone()
    if "bfloat16" in settings:
        cfg.TEST.PRECISION, cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION = "bfloat16", False
    model = seeded_model(cfg)
    if "compile" in settings:
        model.compile(dynamic=False, options={"freezing": True})

    def run(images: NDArray) -> NDArray:
        outputs = model([{"image": torch.from_numpy(image)} for image in images])
        return np.stack([output["labels"].numpy() for output in outputs])

    return run


def onnxruntime_peer(path: Path, threads: int) -> Run:
    onnxruntime = import_extra("onnxruntime", "onnx", "the peer onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options)
    return lambda images: session.run(None, {"images": images})[0]


def openvino_peer(path: Path, threads: int, settings: set[str]) -> Run:
    openvino = import_extra("openvino", "openvino", "the peer openvino")
    precision = "bf16" if "bfloat16" in settings else "f32"
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", properties)
    return lambda images: compiled([images])[0]


def seeded_model(cfg: CfgNode) -> torch.nn.Module:
    """The same random weights for every peer."""
    torch.manual_seed(0)
    return build_model(cfg).eval()


def build_peers(args: argparse.Namespace, cfg: CfgNode, folder: Path) -> dict[str, Run]:
    """Each peer by name; the ONNX file, which onnxruntime and OpenVINO share, is written once.

    Raises:
        ValueError: an unknown peer.
        ModuleNotFoundError: a library is missing; see `import_extra`.
    """
    unknown = set(args.peers) - set(PEERS)
    if unknown:
        raise ValueError(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    path = folder / "model.onnx"
    if any(not peer.startswith("eager") for peer in args.peers):
        size = None if args.free_size else tuple(args.size)
        start = time.perf_counter()
        export_model(seeded_model(cfg), cfg, path, returns="labels", size=size)
        print(f"exported in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    peers = {}
    for peer in args.peers:
        library, *settings = peer.split(":")
        if library == "eager":
            peers[peer] = pytorch_peer(cfg, set(settings))
        elif library == "onnxruntime":
            peers[peer] = onnxruntime_peer(path, args.threads)
        else:
            peers[peer] = openvino_peer(path, args.threads, set(settings))
    return peers


def measure(peers: dict[str, Run], images: NDArray, rounds: int) -> list[dict]:
    """Runs all peers in turn, round by round.

    Returns:
        For each peer its seconds (median, min, max), and the share of pixels whose label is that of the first peer.
    """
    wanted = None
    results = {}
    for peer, run in peers.items():  # the first run warms up
        labels = run(images)
        wanted = labels if wanted is None else wanted
        results[peer] = {"peer": peer, "agreement": float((labels == wanted).mean()), "seconds": []}
    for _ in range(rounds):
        for peer, run in peers.items():
            start = time.perf_counter()
            run(images)
            results[peer]["seconds"].append(time.perf_counter() - start)
    for result in results.values():
        seconds = result["seconds"]
        result["seconds"] = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return list(results.values())


def table(results: list[dict]) -> str:
    """One row per peer; ratios to the first are of medians and, in brackets, of the fastest rounds."""
    first = results[0]
    rows = [
        {
            "peer": result["peer"],
            "median s": f"{(seconds := result['seconds'])['median']:.3f}",
            "min..max": f"{seconds['min']:.3f}..{seconds['max']:.3f}",
            f"/ {first['peer']}": f"{seconds['median'] / first['seconds']['median']:.2f} "
            f"({seconds['min'] / first['seconds']['min']:.2f})",
            "equal labels": f"{result['agreement']:.2%}",
        }
        for result in results
    ]
    return tabulate.tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="of images, pixels")
    parser.add_argument("--free-size", action="store_true", help="export graphs for any size")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds, after one to warm up")
    parser.add_argument("--json", type=Path, default=Path("output/export_benchmark.json"))
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the config")
    return parse(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    cfg = without_clip_weights(with_classes(load_config(args.config_file, args.opts)))
    cfg.MODEL.DEVICE, cfg.MODEL.COMPILE = "cpu", False
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY, cfg.TEST.SLIDING_WINDOW.ENABLED = True, False
    images = np.random.default_rng(0).integers(0, 256, (args.batch, 3, *args.size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(build_peers(args, cfg, Path(folder)), images, args.rounds)
    settings = {name: getattr(args, name) for name in ("config_file", "size", "free_size", "batch", "threads")}
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    print(table(results))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"settings": settings, "results": results}, indent=1))


if __name__ == "__main__":
    main()
