"""Why a region has its class: the masks behind it, as a piece of HTML.

Shapes: H and W image size, h and w = mask logits.
"""

from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from ..analysis.mask_queries import QueryVote
from ..api.result import Segmentation
from .viewer_data import data_uri

THUMBNAIL = 220  # longer side, in pixels
DIMMED = 0.2  # brightness of pixels that are not in a mask
LEAST_SHARE = 0.01  # of a region's score, for a mask to be shown
MOST_MASKS = 4


def region_at(labels: NDArray[np.integer], x: float, y: float) -> NDArray[np.bool_]:
    """The connected pixels (H, W) of one label around a point, given as shares 0..1 of width and height."""
    height, width = labels.shape
    column, row = (min(max(int(share * side), 0), side - 1) for share, side in ((x, width), (y, height)))
    _, parts = cv2.connectedComponents((labels == labels[row, column]).astype(np.uint8), connectivity=4)
    return parts == parts[row, column]


def explain_region(
    result: Segmentation, region: NDArray[np.bool_], votes: Sequence[QueryVote] | None, num_contexts: int = 0
) -> str:
    """HTML about a region: its class, and a card for each mask that it got its label from.

    Args:
        region: (H, W), of one label.
        votes: of `MaskQueries.votes`; None for a model without mask queries.
    """
    label = int(result.labels[region][0])
    color = "rgb({}, {}, {})".format(*result.colors[label].tolist())
    facts = [f"{100 * region.mean():.1f} % of the image", f"mean confidence {result.confidence[region].mean():.2f}"]
    if result.trusty is not None:
        facts.append(f"trusty map {result.trusty[region].mean():.2f}, the probability of a class seen in training")
    head = (
        f'<h3><span class="swatch" style="background:{color}"></span>{escape(result.class_names[label])}</h3>'
        f"<p>{' · '.join(facts)}</p>"
    )
    if votes is None:
        return f'<section class="region">{head}</section>'
    shown = [vote for vote in votes[:MOST_MASKS] if vote.share >= LEAST_SHARE]
    cards = "".join(_card(result.image, vote, num_contexts) for vote in shown)
    intro = "<p>Masks that this label comes from:</p>" if shown else "<p>No mask supports a class here.</p>"
    return f'<section class="region">{head}{intro}<ul class="masks">{cards}</ul></section>'


def _card(image: NDArray[np.uint8], vote: QueryVote, num_contexts: int) -> str:
    rows = [("linear", *vote.linear)]
    if vote.text is not None:
        rows.append(("text", *vote.text))
    lines = "".join(
        f"<dt>{kind}</dt><dd>{escape(name)} <b>{probability:.2f}</b></dd>" for kind, name, probability in rows
    )
    if vote.context is not None:
        lines += f"<dt>context</dt><dd><b>{vote.context}</b> <i>(of {num_contexts})</i></dd>"
    return (
        f'<li><img src="{data_uri(_lit(image, vote.mask), "JPEG")}" alt="mask of query {vote.query}">'
        f"<h4>query {vote.query} <b>{100 * vote.share:.0f} %</b></h4><dl>{lines}</dl></li>"
    )


def _lit(image: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image at the size of a thumbnail, dark where the mask is not."""
    scale = THUMBNAIL / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    light = DIMMED + (1 - DIMMED) * cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    return (small * light[..., None]).round().astype(np.uint8)
