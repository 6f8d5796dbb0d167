#!/usr/bin/env python
"""Converts released checkpoints for this project. Files are read as data: nothing in them is executed.

    python tools/convert_checkpoint.py --source mask2former model_final.pkl m2f_r50.safetensors \\
        --config-file configs/ade20k/mask2former_r50.yaml
    python tools/convert_checkpoint.py --source openai-clip RN50.pt clip_rn50.safetensors

The result is given to MODEL.WEIGHTS, that of openai-clip to MODEL.CLIP.PRETRAINED. See docs/checkpoints.md.
"""

import argparse
import sys
from pathlib import Path

from mta_clip.checkpoint.convert import convert_checkpoint, fit_to_model, state_dict_of
from mta_clip.checkpoint.sources import SOURCES
from mta_clip.checkpoint.writers import SUFFIXES, require_known_suffix, save_weights


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=SOURCES, help="whose file it is")
    parser.add_argument("input", type=Path, help="the released file")
    parser.add_argument("output", type=Path, help=f"our file; the suffix chooses the format: {' or '.join(SUFFIXES)}")
    parser.add_argument("--config-file", default="", help="checks names and shapes against this config's model")
    parser.add_argument("--drop", action="append", default=[], metavar="PATTERN", help="leave out names in the file")
    parser.add_argument("--verbose", action="store_true", help="list every parameter, not only modules")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the config, at the end")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Converts; returns the exit status."""
    args = parse_arguments(arguments)
    try:
        require_known_suffix(args.output)
        conversion = convert_checkpoint(args.input, args.source, drop=args.drop)
        if args.config_file or args.opts:
            from mta_clip.config_loader import load_config

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
        print("names and shapes were not checked against a model: give --config-file for that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
