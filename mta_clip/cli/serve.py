"""`mta-clip serve`: segments images over HTTP."""

import argparse
import dataclasses
import os

from ..api.hub import is_only_on_hub
from ..extras import import_extra
from .options import positive

DESCRIPTION = """Serves a model over HTTP: an image in, its labels out.

  mta-clip serve --model output/demo
  mta-clip serve --model output/demo --host 0.0.0.0 --port 8000 --batch-size 16    for other machines, too
  mta-clip serve --model output/demo --replicas 2 MODEL.DEVICE cpu

  curl --data-binary @photo.jpg 'http://127.0.0.1:8000/segment?names=sky,road,my%20cat' -o labels.png

It needs pip install 'mta-clip[serve]'. Ctrl-C or SIGTERM stops it, after it has answered what it has taken.
docs/serving.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    help_model = "folder of a run or of a saved model, or a checkpoint"
    parser.add_argument("--model", required=True, metavar="MODEL", help=help_model)
    help_host = "address to serve on (default: 127.0.0.1, this machine alone; 0.0.0.0 and :: are all of its addresses)"
    parser.add_argument("--host", choices=("127.0.0.1", "0.0.0.0", "::"), default="127.0.0.1", help=help_host)
    parser.add_argument("--port", type=positive, default=8000, metavar="N", help="default: 8000")
    help_replicas = "processes with a model each, which share the cores (default: one, or one for each GPU)"
    parser.add_argument("--replicas", type=positive, metavar="N", help=help_replicas)
    for name, default, meaning in (
        ("--batch-size", 8, "most images in a forward pass"),
        ("--wait-ms", 5, "how long a batch waits for more images, in milliseconds"),
        ("--max-queued", 64, "requests taken at once; one more gets status 503"),
        ("--max-pixels", 16_000_000, "of an image"),
        ("--max-upload-mb", 30, "of a request, in megabytes"),
        ("--timeout", 60, "seconds for an answer, after which a request gets status 504"),
    ):
        parser.add_argument(name, type=positive, default=default, metavar="N", help=f"{meaning} (default: {default})")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and values, which override the model's config"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command until it is interrupted; returns the exit status.

    Raises:
        ModuleNotFoundError: LitServe is not installed.
        FileNotFoundError, CheckpointError, KeyError, ValueError: see `model_config` and `build_server`.
    """
    is_only_on_hub(args.model)  # an error if there is no such model
    # The models' processes, which inherit it, share the cores with others: threads that wait must not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in ("litserve", "prometheus_client"):
        import_extra(library, "serve", "mta-clip serve")

    from ..api.load import model_config
    from ..serving.server import Limits, build_server

    limits = Limits(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)})
    server = build_server(model_config(args.model, overrides=args.opts), limits, replicas=args.replicas)
    server.run(
        host=args.host,
        port=args.port,
        num_api_servers=1,  # one gate for all requests
        generate_client_file=False,
        access_log=False,
    )
    return 0
