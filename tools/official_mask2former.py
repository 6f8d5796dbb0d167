"""The official Mask2Former R50 from a checkout that the user has: built for tools/benchmark.py, and compared with ours.

    git clone https://github.com/facebookresearch/Mask2Former
    python tools/official_mask2former.py Mask2Former        # largest difference of the two models' scores

Its package registers names with Detectron2 as ours does, so each is imported in a process of its own. It needs the
modules of its requirements.txt, and on a GPU its compiled operator; on a CPU its own PyTorch form of it runs.

Shapes: C classes, H and W = the side of a square image.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml"
OPERATOR = "MultiScaleDeformableAttention"  # the compiled one
WEIGHTS, SCORES = "official.pth", "scores.pth"
PERTURBATION = 0.02  # standard deviation; freshly initialised, scores hardly depend on the image


def require_checkout(path: Path) -> None:
    """Checks that a folder is a checkout of the official repository.

    Raises:
        FileNotFoundError: it is not; the message names what is missing.
    """
    for file in (path / "mask2former" / "__init__.py", path / CONFIG):
        if not file.is_file():
            raise FileNotFoundError(
                f"{path} is no checkout of https://github.com/facebookresearch/Mask2Former: expected {file}"
            )


def build(checkout: Path, *, classes: int, device: str) -> nn.Module:
    """The official model of CONFIG with random weights, for images that are normalised already.

    Raises:
        FileNotFoundError: see `require_checkout`.
        ModuleNotFoundError: a module that the checkout needs is not installed.
    """
    require_checkout(checkout)
    _make_importable(checkout, device)
    try:
        import mask2former
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{checkout} needs the module {error.name!r}, see its requirements.txt") from error
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    mask2former.add_maskformer2_config(cfg)
    cfg.set_new_allowed(True)  # the file also has keys of detectron2's DeepLab project, which the model does not read
    cfg.merge_from_file(str(checkout / CONFIG))  # runs code that is in the file, as the import has run the package's
    cfg.MODEL.DEVICE = device
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = classes
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    return build_model(cfg).eval()


def _make_importable(checkout: Path, device: str) -> None:
    spec = importlib.util.spec_from_file_location("compat", ROOT / "mta_clip" / "compat.py")
    compat = importlib.util.module_from_spec(spec)  # without importing mta_clip, which would register our models
    spec.loader.exec_module(compat)
    compat.patch_detectron2()
    sys.path.insert(0, str(checkout))
    if OPERATOR in sys.modules or importlib.util.find_spec(OPERATOR):
        return
    if device != "cpu":
        raise ModuleNotFoundError(
            f"on {device} the official model needs its compiled operator {OPERATOR}: run make.sh in "
            f"{checkout / 'mask2former/modeling/pixel_decoder/ops'}"
        )
    sys.modules[OPERATOR] = types.ModuleType(OPERATOR)  # empty: calling it fails, and the PyTorch form runs instead


@torch.no_grad()
def scores(model: nn.Module, image: Tensor) -> Tensor:
    """(C, H, W) on the CPU from a normalised image (3, H, W)."""
    return model([{"image": image}])[0]["sem_seg"].cpu()


def export(args: argparse.Namespace) -> None:
    """Writes the weights of an official model with random weights, an image, and its scores to the folder."""
    torch.manual_seed(0)
    model = build(args.checkout, classes=args.classes, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(PERTURBATION * torch.randn_like(parameter))
    image = torch.randn(3, args.size, args.size)
    torch.save({"model": model.state_dict()}, args.export / WEIGHTS)
    torch.save({"image": image, "scores": scores(model, image)}, args.export / SCORES)


def largest_difference(folder: Path, ours: nn.Module) -> tuple[float, float]:
    """Loads converted official weights into our model and compares its scores with the official ones.

    Args:
        folder: of `export`.
        ours: for images that are normalised already.

    Returns:
        The largest absolute difference, and the largest official score.

    Raises:
        CheckpointError: the weights do not fit.
    """
    from mta_clip.checkpoint.convert import convert_checkpoint, fit_to_model

    conversion = convert_checkpoint(folder / WEIGHTS, "mask2former")
    fit_to_model(conversion, ours.state_dict())
    ours.load_state_dict(conversion.weights)
    official = torch.load(folder / SCORES, weights_only=True)
    difference = scores(ours.eval(), official["image"]) - official["scores"]
    return difference.abs().max().item(), official["scores"].max().item()


def compare(args: argparse.Namespace) -> None:
    """Prints one line of JSON: the largest difference of scores, and the largest score."""
    from benchmark_worker import build_ours

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--export", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        settings = argparse.Namespace(device="cpu", dtype="float32", compile=False, contexts=1, classes=args.classes)
        ours = build_ours(settings, False, "MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3)
        difference, largest = largest_difference(Path(folder), ours)
    print(json.dumps({"largest_difference": difference, "largest_score": largest}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the official repository")
    parser.add_argument("--size", type=int, default=512, help="image side, pixels")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)  # what the official model's process does
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        require_checkout(args.checkout)
    except FileNotFoundError as error:
        parser.error(str(error))
    (export if args.export else compare)(args)


if __name__ == "__main__":
    main()
