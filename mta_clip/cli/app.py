"""`mta-clip app`: a page in the browser, for photos and class names."""

import argparse
import logging
import threading

from ..api.hub import is_only_on_hub
from ..extras import import_extra

DESCRIPTION = """Serves a page in the browser: segments photos, names what is under the pointer.

  mta-clip app --model output/demo
  mta-clip app --model output/demo --model output/tagclip --examples photos/     two models to choose from
  mta-clip app --model output/demo --host 0.0.0.0 --port 8000                    for other machines, too
  mta-clip app --model output/demo MODEL.DEVICE cpu

It needs pip install 'mta-clip[app]', and no internet. Ctrl-C stops it.
"""

MOST_EXAMPLES = 8

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        help="folder of a run or of a saved model, or a checkpoint; repeat it for more models to choose from",
    )
    parser.add_argument(
        "--examples", nargs="+", default=[], help=f"images, folders and patterns; the first {MOST_EXAMPLES} are offered"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers, for a week")
    parser.add_argument(
        "--max-pixels", type=int, default=16_000_000, metavar="N", help="of an image (default: 16 million)"
    )
    parser.add_argument("--max-upload-mb", type=int, default=30, metavar="N", help="of a file (default: 30 megabytes)")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and values, which override the models' configs"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command until it is interrupted; returns the exit status."""
    for model in args.model:
        is_only_on_hub(model)  # an error if there is no such model
    import_extra("gradio", "app", "mta-clip app")

    from ..app.answers import Answers
    from ..app.models import Models
    from ..app.server import serving
    from ..data.image_files import find_images

    examples, failures = find_images(args.examples)
    if failures:
        raise FileNotFoundError(f"--examples: {', '.join(f'{item}: {why}' for item, why in failures.items())}")
    answers = Answers(Models(args.model, args.opts), max_pixels=args.max_pixels)
    with serving(
        answers,
        host=args.host,
        port=args.port,
        share=args.share,
        max_upload_mb=args.max_upload_mb,
        examples=list(examples)[:MOST_EXAMPLES],
    ) as address:
        logger.info("%s serves %s; Ctrl-C stops it", address, ", ".join(answers.models.names))
        threading.Event().wait()
    return 0
