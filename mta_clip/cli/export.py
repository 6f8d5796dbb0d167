"""`mta-clip export`: writes a trained model as files for other programs."""

import argparse
from pathlib import Path

from .console import write_result
from .options import add_config_options, add_names_option, add_weights_option, trained_config

DESCRIPTION = """Exports a trained model to ONNX, torch.export or OpenVINO.

  mta-clip export --config-file output/demo --output model.onnx
  mta-clip export --weights model_final.pth --output model.xml --returns labels --size 512 512
  mta-clip export ... --names "sky, road, my cat" --output model.onnx       other classes, by name
  mta-clip export ... --vocabulary open --output model.onnx                 names stay an input
  mta-clip export ... --names "my cat" --output cat.npz                     only the numbers of names, for such a model

The suffix of --output chooses the format unless --format does. docs/export.md says how to run the files.
"""

NAMES_SUFFIX = ".npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="model.onnx, model.pt2, model.xml or names.npz")
    parser.add_argument("--format", choices=("onnx", "torch", "openvino"), help="default: that of the suffix")
    parser.add_argument("--vocabulary", choices=("closed", "open"), default="closed", help="open: names are an input")
    add_names_option(parser, default="; default: its own")
    parser.add_argument("--returns", choices=("scores", "labels"), default="scores", help="what the graph gives")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="size of images in pixels; default: any size"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status.

    Raises:
        ValueError: nothing says which format to write; see also `trained_config`, `export_model` and `save_names`.
    """
    from ..export import SUFFIXES, export_model, save_names
    from ..export.formats import require_format
    from ..predictor import build_trained_model

    output = Path(args.output)
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    chosen = args.format or by_suffix.get(output.suffix)
    if chosen is not None:
        require_format(chosen, output)  # before the weights are read
    elif output.suffix != NAMES_SUFFIX:
        raise ValueError(f"{output}: the suffix is none of {', '.join([*by_suffix, NAMES_SUFFIX])}")
    cfg = trained_config(args)
    cfg.MODEL.DEVICE, cfg.MODEL.COMPILE = "cpu", False
    model, cfg = build_trained_model(cfg)
    if chosen is None:
        save_names(model, args.names or cfg.MODEL.PROMPT.CLASS_NAMES, output)
        files = [output]
    else:
        files = export_model(
            model,
            cfg,
            output,
            format=chosen,
            vocabulary=args.vocabulary,
            names=args.names,
            returns=args.returns,
            size=tuple(args.size) if args.size else None,
        )
    write_result("\n".join(str(file) for file in files))
    return 0
