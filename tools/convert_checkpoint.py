#!/usr/bin/env python
"""Converts other projects' checkpoints for this one. Files are read as data: nothing in them is executed.

    python tools/convert_checkpoint.py --source mask2former model_final.pkl m2f_r50.safetensors \\
        --config-file configs/ade20k/mask2former_r50.yaml
    python tools/convert_checkpoint.py --source openai-clip RN50.pt clip_rn50.safetensors

Set MODEL.WEIGHTS to the result, or MODEL.CLIP.PRETRAINED to that of openai-clip. See docs/checkpoints.md.
"""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from mta_clip.checkpoint.convert import convert_checkpoint, fit_to_model
from mta_clip.checkpoint.sources import SOURCES
from mta_clip.checkpoint.writers import SUFFIXES, require_known_suffix, save_weights
from mta_clip.cli.options import parse
from mta_clip.config_loader import load_config
from mta_clip.engine.trained_model import without_clip_weights
from mta_clip.modeling.clip import build_clip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=SOURCES, help="project that released the file")
    parser.add_argument("input", type=Path, help="the released file")
    parser.add_argument("output", type=Path, help=f"our file; the suffix chooses the format: {' or '.join(SUFFIXES)}")
    parser.add_argument("--config-file", default="", help="checks names and shapes against this config's model")
    parser.add_argument("--drop", action="append", default=[], metavar="PATTERN", help="leave out names in the file")
    parser.add_argument("--verbose", action="store_true", help="list every parameter, not only modules")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the config")
    return parse(parser, arguments)


def state_dict_of(cfg: CfgNode, source: str) -> dict[str, Tensor]:
    """The state dict that the converted file must fit: of the config's model, or of its open_clip architecture."""
    if SOURCES[source].is_clip:
        return build_clip(name=cfg.MODEL.CLIP.NAME, quick_gelu=cfg.MODEL.CLIP.QUICK_GELU).state_dict()
    cfg = without_clip_weights(cfg)  # only names and shapes are needed
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg).state_dict()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0, or 1 after an error, which is reported without a traceback.
    """
    args = parse_arguments(arguments)
    try:
        require_known_suffix(args.output)
        conversion = convert_checkpoint(args.input, args.source, drop=args.drop)
        if args.config_file or args.opts:
            cfg = load_config(args.config_file, args.opts)
            fit_to_model(conversion, state_dict_of(cfg, args.source))
        save_weights(conversion.weights, args.output, wrapped=not SOURCES[args.source].is_clip)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1
    print(conversion.report(verbose=args.verbose))
    key = "MODEL.CLIP.PRETRAINED" if SOURCES[args.source].is_clip else "MODEL.WEIGHTS"
    print(f"\nwrote {args.output}; use it with {key} {args.output}")
    if conversion.missing is None:
        print("names and shapes were not checked against a model; use --config-file to check them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
