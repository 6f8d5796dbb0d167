"""train_net.py with the toy models registered, in every process that it starts."""

import toy_training  # noqa: F401

from mta_clip.engine.setup import argument_parser
from train_net import run

if __name__ == "__main__":
    run(argument_parser().parse_args())
