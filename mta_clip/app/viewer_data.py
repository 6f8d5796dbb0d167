"""What the viewer in the browser gets: a picture, its labels as an image, and its legend.

Shapes: H and W at which the picture is shown.
"""

import base64
import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..api.result import Segmentation
from ..visualization import draw_heatmap, legend_entries
from ..visualization.panel import display_size

JPEG_QUALITY = 90


def viewer_data(result: Segmentation) -> dict[str, Any]:
    """A result as JSON, at the size at which it is shown.

    Returns:
        `image`, a JPEG; `labels`, a PNG with class index % 256, class index // 256 and confidence * 255 in its three
        channels; for TagCLIP `trusty`, the map in colours, and `trusty_values`, a grey PNG; all as data URIs.
        `classes` that are present, the largest first: index, name, color [r, g, b], share of the pixels, mark.
    """
    height, width = display_size(*result.labels.shape)
    labels = cv2.resize(result.labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST)
    confidence = _smooth(result.confidence, height, width)
    data = {
        "image": data_uri(_smooth(result.image, height, width), "JPEG"),
        "labels": data_uri(np.dstack([labels % 256, labels // 256, _bytes(confidence)]).astype(np.uint8)),
        "classes": _classes(result),
    }
    if result.trusty is not None:
        trusty = _smooth(result.trusty, height, width).clip(0, 1)
        data |= {"trusty": data_uri(draw_heatmap(trusty)), "trusty_values": data_uri(_bytes(trusty))}
    return data


def data_uri(picture: NDArray[np.uint8], kind: str = "PNG") -> str:
    """A picture (H, W, 3) RGB or (H, W) grey as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, quality=JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _classes(result: Segmentation) -> list[dict[str, Any]]:
    entries = legend_entries(
        result.labels, result.class_names, result.colors, unseen=result.unseen_classes, other=result.other
    )
    indices = {name: index for index, name in enumerate(result.class_names)}
    return [
        {"index": indices[x.name], "name": x.name, "color": list(x.color), "share": x.share, "mark": x.mark}
        for x in entries
    ]


def _smooth(picture: NDArray, height: int, width: int) -> NDArray:
    smaller = height < picture.shape[0]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return (values * 255).round().astype(np.uint8)
