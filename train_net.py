#!/usr/bin/env python
"""Trains or evaluates the model that a config describes; the same as `mta-clip train` and `mta-clip evaluate`.

python train_net.py --config-file configs/shapes/mta_clip_tiny.yaml              train, then evaluate
python train_net.py --config-file ... --resume                                   continue from the last checkpoint
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model.pth        evaluate
python train_net.py --config-file ... --num-gpus 8                               train on eight GPUs
python train_net.py --config-file ... --num-gpus 2 MODEL.DEVICE cpu              train in two processes on the CPU
python train_net.py --config-file ... --num-gpus 8 --max-restarts 3              resume up to 3 times after a failure
torchrun --nproc-per-node 8 train_net.py --config-file ...                       train on eight GPUs with torchrun
"""

import sys
from collections.abc import Sequence

from mta_clip.cli.main import main


def run(arguments: Sequence[str]) -> int:
    """Runs the command that the options ask for; returns the exit status."""
    command = "evaluate" if "--eval-only" in arguments else "train"
    return main([command, *(argument for argument in arguments if argument != "--eval-only")])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
