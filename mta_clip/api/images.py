"""Whatever people have as an image, as an RGB array.

Shapes: H, W image size, B images.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..data import read_image
from ..data.datasets.catalog import IMAGE_SUFFIXES
from ..data.image_files import images_at

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray | torch.Tensor


def is_one_image(images: ImageInput | Iterable[ImageInput]) -> TypeGuard[ImageInput]:
    """Whether this is an image, not a folder, a batch or an iterable of images."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != 4
    if isinstance(images, str | os.PathLike):
        return not Path(images).is_dir()
    return isinstance(images, Image.Image)


def each_image(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    """The images one by one: those of a folder and its subfolders sorted by path; an image as a list of itself.

    Raises:
        ValueError: no image in a folder.
    """
    if is_one_image(images):
        return [images]
    if not isinstance(images, str | os.PathLike):
        return images  # type: ignore[return-value]  # several
    found = images_at(Path(images))
    if not found:
        raise ValueError(f"{images}: there are no images in this folder (expected {', '.join(IMAGE_SUFFIXES)})")
    return found


def to_rgb(image: ImageInput) -> tuple[NDArray[np.uint8], str | None]:
    """An image as an array (H, W, 3) uint8 RGB, and the path of its file if it has one.

    Args:
        image: path; PIL image; array (H, W, 3), (H, W, 4) (alpha is dropped), (H, W, 1) or (H, W) (grey); tensor
            (3, H, W) or (1, H, W). Channels are RGB, values uint8, or floating point in 0..1.

    Raises:
        FileNotFoundError, ValueError: see `read_image`; or a shape, type or value range that is none of these.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image)), str(image)
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"a PIL image of mode {image.mode} has no fixed range; convert it to 8 bits per channel")
        return np.array(ImageOps.exif_transpose(image).convert("RGB")), None
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or len(image) not in (1, 3):
            raise ValueError(f"expected an image tensor (3, H, W) or (1, H, W), got {tuple(image.shape)}")
        image = (image.float() if image.is_floating_point() else image).permute(1, 2, 0).cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"expected a path, PIL image, array or tensor as image, got a {type(image).__name__}")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"expected an image array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), got {image.shape}")
    image = _as_bytes(image[..., :3])
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image, None


def _as_bytes(image: NDArray) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8 (0..255) or floating point (0..1) values in an image, got {image.dtype}")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"floating point images have values in 0..1, got {image.min()}..{image.max()}; if they are 0..255, "
            "convert them to uint8"
        )
    return (image * 255).round().astype(np.uint8)


def batches_of_one_size(
    images: Iterable[ImageInput], most: int
) -> Iterator[list[tuple[NDArray[np.uint8], str | None]]]:
    """Consecutive images of one size, read by `to_rgb`, in lists of up to `most`: a model need not pad any of them."""
    batch: list[tuple[NDArray[np.uint8], str | None]] = []
    for image in map(to_rgb, images):
        if batch and (len(batch) == most or image[0].shape != batch[0][0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch
