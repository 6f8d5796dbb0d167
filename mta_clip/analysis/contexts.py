"""Counts which learned context each predicted mask is most similar to: z* of MTA-CLIP.

In training, L_sim pulls a mask towards that context of its class which it already resembles most, so contexts can
specialise (MTA-CLIP, section on Mask-Text Prompt Learning). Here the same choice, z* = argmax over z of
similarity[z, q, y] for query q and class y, is counted over a dataset for the masks that make up the label maps.

Shapes: Q mask queries, C classes, K = C + 1 (last = no object), Z contexts, H and W = an image before padding, h and w
= its mask logits, Dt text width.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr
from torch import Tensor, nn
from torch.nn import functional as F

THUMBNAIL = 128  # side of an example crop, in pixels
CROP_MARGIN = 0.1  # margin on each side of a mask, as a share of its bounding box
DIMMED = 0.6  # share of white blended over pixels outside the mask


@dataclass(order=True)
class Example:
    """A mask that is cut out of its image."""

    pixels: int  # area of the mask, at mask resolution
    file_name: str
    crop: NDArray[np.uint8] = field(compare=False)  # (THUMBNAIL, THUMBNAIL, 3) RGB


@dataclass
class ContextUsage:
    """How often masks of each class were most similar to each context, with the largest masks as examples."""

    masks: NDArray[np.int64]  # (C, Z), number of masks
    pixels: NDArray[np.int64]  # (C, Z), area of these masks, at mask resolution
    max_examples: int  # number of examples kept per class and context
    examples: dict[tuple[int, int], list[Example]] = field(default_factory=dict)  # by (class, context); heaps
    images: int = 0  # number of images counted

    @classmethod
    def zeros(cls, num_classes: int, num_contexts: int, *, max_examples: int = 4) -> "ContextUsage":
        """A usage without any masks, for C classes and Z contexts."""
        shape = (num_classes, num_contexts)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), max_examples)

    def add(self, label: int, context: int, region: NDArray[np.bool_], record: Mapping[str, Any]) -> None:
        """Counts one mask.

        Args:
            label: class of the mask.
            context: that it is most similar to.
            region: (h, w), True at the pixels of the label map that come from this mask.
            record: `image` (3, H, W) RGB, values 0..255, and optionally `file_name`.
        """
        pixels = int(region.sum())
        self.masks[label, context] += 1
        self.pixels[label, context] += pixels
        heap = self.examples.setdefault((label, context), [])
        if len(heap) == self.max_examples and (not heap or pixels <= heap[0].pixels):
            return  # no larger than the examples that are kept already
        example = Example(pixels, record.get("file_name", ""), cut_out(record["image"], region))
        if len(heap) < self.max_examples:
            heapq.heappush(heap, example)
        else:
            heapq.heapreplace(heap, example)

    def entropy(self) -> NDArray[np.float64]:
        """Entropy / log Z of each class's choices, and last of all: 1 = all contexts alike, 0 = one; NaN = no masks.

        Returns:
            (C + 1,).
        """
        counts = np.vstack([self.masks, self.masks.sum(0)]).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return entr(counts / counts.sum(1, keepdims=True)).sum(1) / np.log(counts.shape[1])

    def largest(self, label: int, context: int) -> list[Example]:
        """Examples of a class and context, with the largest mask first."""
        return sorted(self.examples.get((label, context), []), reverse=True)


@torch.no_grad()
def analyze_contexts(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], *, max_examples: int = 4
) -> ContextUsage:
    """Runs a model over data, on whole images, and counts which contexts its masks are most similar to.

    Args:
        model: has `preprocess(batched_inputs) -> ImageList` and `predict_masks(images) -> HeadOutput`, like MTACLIP; it
            is set to evaluation mode.
        loader: batches of dicts with `image` (3, H, W) RGB, values 0..255.
        max_examples: number of crops kept per class and context.

    Raises:
        ValueError: the model does not compare masks with text, or there is no data.
    """
    usage = None
    model.eval()
    for batch in loader:
        images = model.preprocess(batch)
        output = model.predict_masks(images.tensor)
        similarity = output.final.similarity
        if similarity is None:
            raise ValueError(
                "this model has no text side, or was not trained to compare masks with it, so its masks choose no "
                "context; use a model with MODEL.PROMPT.NAME set and MODEL.MTA.SIMILARITY_WEIGHT above 0"
            )
        if usage is None:
            usage = ContextUsage.zeros(similarity.shape[-1] - 1, len(similarity), max_examples=max_examples)
        mask_logits = output.mask_logits()
        stride = images.tensor.shape[-1] / mask_logits.shape[-1]
        for index, (record, (height, width)) in enumerate(zip(batch, images.image_sizes, strict=True)):
            own = mask_logits[index, :, : math.ceil(height / stride), : math.ceil(width / stride)]
            _count_image(usage, output.final.class_logits[index], own, similarity[:, index], record)
            usage.images += 1
    if usage is None:
        raise ValueError("there is no image to analyse: the data loader is empty; check DATASETS.TEST")
    return usage


def mean_cosines(text: Tensor) -> Tensor:
    """Mean cosine (...) of all pairs along the first axis of (N, ..., Dt): are they different, or twins? NaN if N = 1.

    Of text (Z, K, Dt) these are the cosines between the contexts of each class; of its transpose (K, Z, Dt), between
    the classes in each context, a scale to compare with.
    """
    units = F.normalize(text.float(), dim=-1)
    count = len(units)
    total = units.sum(0).square().sum(-1) - count
    return total / (count * (count - 1)) if count > 1 else torch.full_like(total, torch.nan)


def _count_image(
    usage: ContextUsage, class_logits: Tensor, mask_logits: Tensor, similarity: Tensor, record: Mapping[str, Any]
) -> None:
    owner, labels = mask_owners(class_logits, mask_logits).cpu().numpy(), class_logits.argmax(-1).tolist()
    contexts = similarity.argmax(dim=0).cpu()  # (Q, K)
    for query in np.unique(owner[owner >= 0]).tolist():
        label = labels[query]
        usage.add(label, int(contexts[query, label]), owner == query, record)


def mask_owners(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Finds the query that each pixel of the label map comes from, its owner.

    The label of a pixel is the class c with the largest sum over queries q of p[q, c] * sigmoid(m[q]), where p are
    class probabilities without "no object" and m mask logits (Mask2Former, semantic inference). Among the queries whose
    own class is that label, the one with the largest p[q, c] * sigmoid(m[q]) owns the pixel.

    Args:
        class_logits: (Q, K).
        mask_logits: (Q, h, w).

    Returns:
        (h, w) int64, index of the owner; -1 where no query predicts the class of the pixel.
    """
    class_probs, masks = class_logits.float().softmax(-1)[:, :-1], mask_logits.float().sigmoid()
    labels = torch.einsum("qc,qhw->chw", class_probs, masks).argmax(0)
    predicted = class_logits.argmax(-1)  # may be K - 1 (no object), which never is a label
    share = class_probs.max(-1).values[:, None, None] * masks
    best, owner = torch.where(predicted[:, None, None] == labels, share, -1.0).max(0)
    return torch.where(best >= 0, owner, -1)


def cut_out(image: Tensor, region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Crops an image around a mask, dims all other pixels and centres the crop on a white square of side THUMBNAIL.

    Args:
        image: (3, H, W) RGB, values 0..255.
        region: (h, w), not empty; covers the same area as the image.
    """
    picture = image.cpu().numpy().transpose(1, 2, 0).astype(np.uint8)
    height, width = picture.shape[:2]
    mask = cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    window = _with_margin(mask.any(1)), _with_margin(mask.any(0))
    crop, mask = picture[window], mask[window]
    crop = np.where(mask[..., None], crop, (crop * (1 - DIMMED) + 255 * DIMMED).astype(np.uint8))
    scale = THUMBNAIL / max(crop.shape[:2])
    size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    square = np.full((THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    top, left = (THUMBNAIL - size[1]) // 2, (THUMBNAIL - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = crop
    return square


def _with_margin(inside: NDArray[np.bool_]) -> slice:
    first, last = np.flatnonzero(inside)[[0, -1]]
    margin = CROP_MARGIN * (last - first + 1)
    return slice(max(0, int(first - margin)), int(last + margin) + 1)
