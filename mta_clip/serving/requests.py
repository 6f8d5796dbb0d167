"""From what a client sends to a job for the model, or the reason why it is refused.

Shapes: H, W image size.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..api.result import DEFAULT_THRESHOLD, check_threshold
from ..data.image_files import DECODING_ERRORS, TooManyPixels, decode_image, describe_unknown
from ..data.synonyms import split_names

MOST_NAMES = 1000

Output: TypeAlias = Literal["png", "json"]


class Refused(Exception):
    """A request gets no labels.

    Args:
        status: of HTTP.
        message: for the client: what is wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)  # both, so that processes can send it to each other
        self.status = status
        self.message = message


@dataclass(frozen=True, eq=False, repr=False)  # without its pixels in the log
class Job:
    """An image (H, W, 3), uint8 RGB, and what is wanted of it; for the rest see `Segmenter.__call__`."""

    image: NDArray[np.uint8]
    names: tuple[str, ...] | None = None
    other: str | None = None
    threshold: float = DEFAULT_THRESHOLD
    output: Output = "png"


def read_job(
    content: bytes,
    *,
    max_pixels: int,
    names: Sequence[str] = (),
    other: str = "",
    threshold: float = DEFAULT_THRESHOLD,
    output: Output = "png",
) -> Job:
    """Decodes the image and checks the parameters.

    Args:
        content: of the image file.
        max_pixels: of the image; larger ones are refused before they are decoded.
        names: texts with class names, separated by commas or line breaks; none: the classes of the training.
        other: name of the pixels below the threshold; empty: no pixel is rejected.

    Raises:
        Refused: 400, 413 or 415.
    """
    wanted = tuple(split_names("\n".join(names)) or ())
    if len(wanted) > MOST_NAMES:
        raise Refused(400, f"{len(wanted)} names are too many: at most {MOST_NAMES} are taken.")
    try:
        check_threshold(threshold)
    except ValueError as error:
        raise Refused(400, f"{error}.") from error
    return Job(_decoded(content, max_pixels), wanted or None, other.strip() or None, threshold, output)


def _decoded(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    if not content:
        raise Refused(400, "There is no image: send it as the body, or as the field `image` of a form.")
    try:
        return decode_image(io.BytesIO(content), max_pixels=max_pixels)
    except (TooManyPixels, Image.DecompressionBombError) as error:
        raise Refused(413, str(error)) from error
    except UnidentifiedImageError as error:
        raise Refused(415, f"The image cannot be read: {describe_unknown(content)}.") from error
    except DECODING_ERRORS as error:
        raise Refused(400, f"The image cannot be read: {error}.") from error
