"""What a client gets back: the label map as a PNG, or the masks as JSON."""

import io
import json

from ..api.result import Segmentation
from ..visualization.label_png import label_picture
from .requests import Output


def encode(result: Segmentation, output: Output) -> tuple[bytes, str]:
    """Content and media type of an answer.

    PNG: pixel value = class index, with the colours of the classes as palette. JSON: the COCO dataset of
    `Segmentation.to_coco`, whose annotations also have `share`, of the image's pixels, 0..1.
    """
    if output == "png":
        buffer = io.BytesIO()
        label_picture(result.labels, result.colors).save(buffer, format="PNG")
        return buffer.getvalue(), "image/png"
    coco = result.to_coco()
    for annotation in coco["annotations"]:
        annotation["share"] = annotation["area"] / result.labels.size
    return json.dumps(coco).encode(), "application/json"
