"""The HTTP server, by LitServe: one process reads, checks and answers requests, others hold the model.

Source: https://lightning.ai/docs/litserve
"""

import dataclasses
import logging
import signal
import threading
from typing import Annotated, Any

import litserve
import pydantic
import torch
from detectron2.config import CfgNode
from fastapi import Depends, HTTPException, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse

from ..api.load import load_segmenter
from ..api.result import DEFAULT_THRESHOLD, Segmentation
from ..data.parallel import end_with_parent
from ..engine.devices import check_devices
from ..engine.trained_model import require_weights, with_trained_classes
from ..modeling.clip import knows_language
from .answers import encode
from .batches import segment_jobs
from .gate import Gate
from .loop import WaitingLoop
from .requests import Job, Output, Refused, read_job

PATH = "/segment"
BODY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["image"], "properties": {"image": BODY["schema"]}}}
DOCUMENTED = {  # what FastAPI cannot know of the endpoint
    "summary": "Segments an image",
    "requestBody": {"required": True, "content": {"image/*": BODY, "multipart/form-data": FORM}},
    "responses": {
        "200": {"description": "the labels", "content": {"image/png": BODY, "application/json": {}}},
        "400": {"description": "the image is broken, or a parameter is wrong"},
        "413": {"description": "the image or the request is too large"},
        "415": {"description": "this is no image"},
        "422": {"description": "a parameter is unknown, or of the wrong type"},
        "503": {"description": "too many requests are under way; Retry-After says when to try again"},
        "504": {"description": "no answer in time"},
    },
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server takes.

    Args:
        batch_size: most images in a forward pass.
        wait_ms: how long a batch waits for more images, in milliseconds, at least 1.
        max_queued: requests taken at once; one more gets status 503.
        max_pixels: of an image.
        max_upload_mb: of a request, in megabytes.
        timeout: for an answer, in seconds; after it, a request gets status 504.
    """

    batch_size: int = 8
    wait_ms: int = 5
    max_queued: int = 64
    max_pixels: int = 16_000_000
    max_upload_mb: int = 30
    timeout: int = 60


class Parameters(pydantic.BaseModel, extra="forbid"):
    """What clients send beside the image, in the address; a parameter of another name gets status 422."""

    names: tuple[str, ...] = Field((), description="class names, separated by commas; none: those of training")
    other: str = Field("", description="name of the pixels at which no class reaches the threshold")
    threshold: float = Field(DEFAULT_THRESHOLD, description="of `other`, 0..1")
    output: Output = Field("png", description="label map, or COCO JSON with run-length masks")


async def read_request(request: Request, parameters: Annotated[Parameters, Query()]) -> Job:
    """The job of a request."""
    limit = request.app.state.max_pixels
    try:
        content = await _image_of(request)
        return await run_in_threadpool(read_job, content, max_pixels=limit, **parameters.model_dump())
    except Refused as refused:
        raise HTTPException(refused.status, refused.message) from refused


async def _image_of(request: Request) -> bytes:
    """The field `image` of a form; else the whole body, whose type is often wrong, as curl's is."""
    if not request.headers.get("Content-Type", "").startswith("multipart/"):
        return await request.body()
    form = await request.form()
    if unknown := sorted(form.keys() - {"image"}):
        raise Refused(422, f"The form has other fields than `image` ({', '.join(unknown)}): put them into the address.")
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise Refused(400, "There is no image: this form has no file in its field `image`.")
    return await image.read()


class Answer(Response):
    """A result, encoded in the process that sends it, so that the model's can go on."""

    def __init__(self, result: Segmentation, output: Output) -> None:
        super().__init__()
        self._result = result
        self._output = output

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """See ASGI."""
        content, media_type = await run_in_threadpool(encode, self._result, self._output)
        await Response(content, media_type=media_type)(scope, receive, send)


class SegmentationAPI(litserve.LitAPI):
    """What LitServe asks for, in the order of a request: see its documentation.

    Args:
        cfg: of the trained model.
        limits: see `Limits`.
        replicas: processes with a model each, which share the cores.
    """

    def __init__(self, cfg: CfgNode, limits: Limits, replicas: int = 1) -> None:
        wait = limits.wait_ms / 1000
        super().__init__(limits.batch_size, wait, api_path=PATH, loop=WaitingLoop())
        self._cfg = cfg
        self._replicas = replicas

    def setup(self, device: str) -> None:
        """Loads the model, in a process of its own."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets requests end first
        end_with_parent()
        torch.set_num_threads(max(1, torch.get_num_threads() // self._replicas))
        logging.getLogger("mta_clip.predictor").setLevel(logging.ERROR)  # no warning for each list of names
        self._model = load_segmenter(self._cfg, device if device.startswith("cuda") else self._cfg.MODEL.DEVICE)

    def decode_request(self, request: Annotated[Job, Depends(read_request)]) -> Job:
        """The job. FastAPI has made it, before it was queued: a bad request never meets others in a batch."""
        return request

    def predict(self, jobs: list[Job]) -> list[Answer | JSONResponse]:
        """Segments jobs; see `segment_jobs`."""
        return [
            JSONResponse({"detail": result.message}, result.status)
            if isinstance(result, Refused)
            else Answer(result, job.output)
            for job, result in zip(jobs, segment_jobs(self._model, jobs), strict=True)
        ]


class Server(litserve.LitServer):
    """LitServe's server, whose watch of the models' processes ends before they do: it would replace them."""

    def _perform_graceful_shutdown(self, *args: Any, **kwargs: Any) -> None:
        # In a thread, which has its own connection: that of this one may still wait for this very event.
        stop = threading.Thread(target=self._shutdown_event.set)
        stop.start()
        stop.join()
        super()._perform_graceful_shutdown(*args, **kwargs)


def _is_no_sign_of_the_end(record: logging.LogRecord) -> bool:
    """Whether this is not LitServe's watch of its processes, which logs a traceback when their queues are gone."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionError | EOFError))


def build_server(cfg: CfgNode, limits: Limits, *, replicas: int | None = None) -> Server:
    """A server; `run(host=..., port=...)` serves until it is interrupted, and then answers what it has taken.

    Args:
        cfg: of a trained model, with its weights; see `model_config`.
        limits: see `Limits`.
        replicas: processes with a model each; None: one, or one for each GPU.

    Raises:
        ValueError: no weights, or more replicas than GPUs; see `require_weights` and `check_devices`.
        FileNotFoundError, CheckpointError: see `with_trained_classes`.
    """
    require_weights(cfg)
    cfg = with_trained_classes(cfg)
    on_gpus = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    replicas = replicas or (torch.cuda.device_count() if on_gpus else 1)
    check_devices(cfg.MODEL.DEVICE, replicas)
    server = Server(
        SegmentationAPI(cfg, limits, replicas),
        accelerator="cuda" if on_gpus else "cpu",
        devices=replicas if on_gpus else "auto",
        workers_per_device=1 if on_gpus else replicas,
        timeout=limits.timeout,
        max_payload_size=limits.max_upload_mb * 1_000_000,
        middlewares=[(Gate, {"path": PATH, "max_queued": limits.max_queued, "timeout": limits.timeout})],
        model_metadata={
            "class_names": list(cfg.MODEL.PROMPT.CLASS_NAMES),
            "knows_language": knows_language(cfg),
            "limits": dataclasses.asdict(limits),
        },
        restart_workers=True,
    )
    server.app.state.max_pixels = limits.max_pixels
    logging.getLogger("litserve.server").addFilter(_is_no_sign_of_the_end)
    next(route for route in server.app.routes if route.path == PATH).openapi_extra = DOCUMENTED

    @server.app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return server
