#!/usr/bin/env python
"""Segments images; the same as `mta-clip predict`.

python demo.py --config-file configs/shapes/mta_clip_tiny.yaml --weights output/demo/model_final.pth \\
    --input street.jpg photos/ 'more/*.png' --output output/overlays
"""

import sys

from mta_clip.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
