"""train_net.py with the toy models registered, in every process that it starts."""

import sys

import toy_training  # noqa: F401

from train_net import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
