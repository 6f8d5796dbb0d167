"""Semantic maps from classified masks: score[c] = sum over queries of p(c | query) * sigmoid(mask of the query).

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class, Dt text width,
h and w = mask logits, H and W = padded input, H' and W' = wanted output.

The upsampled masks are made in blocks of output rows that fit into a cache, with queries as the last (contiguous)
dimension, where interpolation is fastest; each block is combined by one matrix product. No (Q, H, W) tensor exists.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..outputs import LayerPrediction
from .progress import progress_bar

CLASSIFIERS = ("linear", "text", "ensemble")
_BLOCK_BYTES = {"cpu": 1 << 22}  # of mask probabilities and scores together: fits into a cache
_BLOCK_BYTES_DEVICE = 1 << 28  # elsewhere: enough to fill the device


@torch.no_grad()
def semantic_inference(
    class_probs: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    crop: tuple[int, int] | None = None,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Score maps, unnormalised: values can exceed 1 and do not sum to 1 over classes (Mask2Former).

    With `crop` and `output_size` the result is detectron2's `sem_seg_postprocess` of the whole map; as resizing is
    linear in the scores, it is done to the masks, before classes are combined.

    Args:
        class_probs: (B, Q, C).
        mask_logits: (B, Q, h, w); their type is that of the matrix products.
        size: (H, W) to upsample to, bilinearly.
        crop: (rows, columns) of the upsampled map to keep, at most `size`; None = all.
        output_size: (H', W') to resize the kept part to, bilinearly; None = as it is.

    Returns:
        (B, C, H', W') float32.
    """
    height, width = output_size or crop or size
    num_images, _, num_classes = class_probs.shape
    scores = torch.empty((num_images, num_classes, height, width), device=mask_logits.device)
    for image, result in enumerate(scores):
        for rows, block in score_blocks(class_probs[image], mask_logits[image], size, crop, output_size):
            result[:, rows] = block
    return scores


@torch.no_grad()
def score_blocks(
    class_probs: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    crop: tuple[int, int] | None = None,
    output_size: tuple[int, int] | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """`semantic_inference` of one image, (Q, C) and (Q, h, w), without the whole map.

    Yields:
        From top to bottom, some rows and their scores (C, r, W') in the type of the masks.
    """
    masks = _ResizedMasks(mask_logits.shape, size, crop, output_size)
    num_classes = class_probs.shape[-1]
    weights = class_probs.to(mask_logits.dtype).t()
    for rows, probabilities in masks.blocks(mask_logits, num_classes):
        yield rows, (weights @ probabilities.t()).view(num_classes, -1, masks.output_size[1])


@torch.no_grad()
def semantic_labels(
    class_probs: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    crop: tuple[int, int] | None = None,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """`semantic_inference(...).argmax(1)`, without the score maps: memory does not grow with classes times pixels.

    Returns:
        (B, H', W') int64.
    """
    labels = torch.empty(
        (len(class_probs), *(output_size or crop or size)), dtype=torch.int64, device=mask_logits.device
    )
    for image, result in enumerate(labels):
        for rows, scores in score_blocks(class_probs[image], mask_logits[image], size, crop, output_size):
            if scores.dtype == torch.bfloat16:  # ordered like its bits, as it is not negative, but slower
                scores = scores.view(torch.int16)
            result[rows] = argmax_classes(scores)
    return labels


def argmax_classes(scores: Tensor) -> Tensor:
    """`scores.argmax(0)`, the first of equals; several times as fast on CPU, where that reduction is not vectorised.

    Args:
        scores: (C, ...), without NaN; C fits into the type of integers.

    Returns:
        (...) int64.
    """
    num_classes = len(scores)
    if scores.is_floating_point():
        scores = scores.float()  # half precision counts to 256 only
    best = torch.eq(scores, scores.amax(0), out=torch.empty_like(scores))  # 0 or 1: faster than bool, then as numbers
    rank = torch.arange(num_classes, 0, -1, dtype=scores.dtype, device=scores.device)
    return num_classes - best.mul_(rank.view(-1, *[1] * (scores.dim() - 1))).amax(0).long()


class _ResizedMasks:
    """Mask probabilities at output size, in blocks of rows."""

    def __init__(
        self,
        shape: torch.Size,
        size: tuple[int, int],
        crop: tuple[int, int] | None,
        output_size: tuple[int, int] | None,
    ) -> None:
        self.num_queries = shape[-3]
        self.size = size
        self.crop = crop or size
        self.output_size = output_size or self.crop
        if self.crop[0] > size[0] or self.crop[1] > size[1]:
            raise ValueError(f"cannot crop {self.crop} (height, width) from a map of size {size}")
        self.upsampled_rows = source_rows(shape[-2], size[0])
        self.resized_rows = source_rows(self.crop[0], self.output_size[0])

    def blocks(self, mask_logits: Tensor, num_classes: int) -> Iterator[tuple[slice, Tensor]]:
        """Yields the rows of a block and its probabilities (rows * W', Q), from logits (Q, h, w)."""
        # Resized in float32 also when the products are not: CPUs are faster at it.
        logits = mask_logits.permute(1, 2, 0).float().contiguous()  # (h, w, Q)
        height, width = self.output_size
        limit = _BLOCK_BYTES.get(logits.device.type, _BLOCK_BYTES_DEVICE) // mask_logits.element_size()
        per_row = width * (self.num_queries + num_classes)
        # A row of a shrunk output needs several rows of the input.
        per_row = max(per_row, self.size[1] * self.num_queries * self.crop[0] // height)
        step = max(1, limit // per_row)
        with progress_bar(height, "row") as progress:
            for start in range(0, height, step):
                rows = slice(start, min(start + step, height))
                yield rows, self._block(logits, rows).reshape(-1, self.num_queries).to(mask_logits.dtype)
                progress.update(rows.stop - start)

    def _block(self, logits: Tensor, rows: slice) -> Tensor:
        if self.output_size == self.crop:
            return self._probabilities(logits, rows)
        upper, lower, weight = (x[rows] for x in self.resized_rows)
        first = int(upper[0])
        probabilities = self._probabilities(logits, slice(first, int(lower[-1]) + 1))
        return _resize(probabilities, upper - first, lower - first, weight, self.output_size[1])

    def _probabilities(self, logits: Tensor, rows: slice) -> Tensor:
        """Upsampled and cropped: (rows, columns, Q) from logits (h, w, Q)."""
        upsampled = _resize(logits, *(x[rows] for x in self.upsampled_rows), self.size[1])
        return upsampled.sigmoid_()[:, : self.crop[1]]


def source_rows(length: int, resized_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of a resized map: the two rows they lie between, and the weight of the second (align_corners False).

    Args:
        length: rows of the map.
        resized_length: rows of the resized map, H.

    Returns:
        (H,) int64, int64 and float32, on the CPU.
    """
    position = ((torch.arange(resized_length) + 0.5) * (length / resized_length) - 0.5).clamp(min=0)
    upper = position.long().clamp(max=length - 1)
    weight = position - upper
    return upper, (upper + (weight > 0)).clamp(max=length - 1), weight


def _resize(maps: Tensor, upper: Tensor, lower: Tensor, weight: Tensor, width: int) -> Tensor:
    """Blends pairs of rows of (h, w, Q) maps and resizes the columns: (rows, width, Q)."""
    upper, lower, weight = (x.to(maps.device) for x in (upper, lower, weight))
    rows = torch.lerp(maps.index_select(0, upper), maps.index_select(0, lower), weight.to(maps.dtype)[:, None, None])
    # Every row an image with channels last: that is fastest, and images are what threads share out.
    images = rows.permute(0, 2, 1)[:, :, None]
    resized = F.interpolate(images, size=(1, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)[:, 0]


def classify_masks(
    class_logits: Tensor,
    similarity: Tensor | None = None,
    *,
    classifier: str = "linear",
    temperature: float | Tensor = 0.07,
    ensemble_weight: float = 0.5,
) -> Tensor:
    """Class probabilities of masks.

    - linear: softmax of the class logits.
    - text: softmax of similarity / temperature over the Z * K prompts, as in the denominator of L_sim, then summed
      over the contexts of each class.
    - ensemble: their geometric mean, normalised over the K rows.

    Args:
        class_logits: (B, Q, K).
        similarity: (Z, B, Q, K) cosines; for `text` its K may be another than that of the class logits.
        classifier: linear | text | ensemble.
        temperature: of the text softmax, above 0.
        ensemble_weight: share of text in the ensemble, 0 (linear) .. 1 (text).

    Returns:
        (B, Q, C) float32, what no-object leaves of 1.

    Raises:
        ValueError: unknown classifier, no similarity where it is needed, or an ensemble over different rows.
    """
    if classifier not in CLASSIFIERS:
        raise ValueError(f"unknown classifier {classifier!r} (MODEL.MTA.CLASSIFIER): one of {', '.join(CLASSIFIERS)}")
    if classifier == "linear":
        return class_logits.float().softmax(-1)[..., :-1]
    if similarity is None:
        raise ValueError(
            f"MODEL.MTA.CLASSIFIER {classifier!r} compares masks with text, but the head predicts no similarity: "
            "use 'linear', or a model trained with text (MODEL.PROMPT.NAME) and MODEL.MTA.SIMILARITY_WEIGHT above 0"
        )
    prompts = similarity.float() / temperature
    log_text = prompts.logsumexp(0)
    log_text = log_text - log_text.logsumexp(-1, keepdim=True)
    if classifier == "text":
        return log_text.exp()[..., :-1]
    if log_text.shape != class_logits.shape:
        raise ValueError(
            f"an ensemble needs the same classes on both sides: class logits have {class_logits.shape[-1]} rows, the "
            f"similarity {log_text.shape[-1]}; classify other names with 'text'"
        )
    log_linear = class_logits.float().log_softmax(-1)
    return torch.lerp(log_linear, log_text, ensemble_weight).softmax(-1)[..., :-1]


class MaskClassifier(nn.Module):
    """`classify_masks` with its settings.

    Args:
        classifier: linear | text | ensemble.
        temperature: of the text softmax.
        ensemble_weight: share of text in the ensemble.
    """

    @configurable
    def __init__(self, *, classifier: str = "linear", temperature: float = 0.07, ensemble_weight: float = 0.5) -> None:
        super().__init__()
        if classifier not in CLASSIFIERS:
            raise ValueError(
                f"unknown classifier {classifier!r} (MODEL.MTA.CLASSIFIER): one of {', '.join(CLASSIFIERS)}"
            )
        if not temperature > 0 or not 0 <= ensemble_weight <= 1:
            raise ValueError(
                f"the text temperature must be above 0 and the ensemble weight in 0..1, got {temperature} and "
                f"{ensemble_weight}"
            )
        self.classifier = classifier
        self.temperature = temperature
        self.ensemble_weight = ensemble_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.MTA
        trained_without = node.TEMPERATURE == 1 and not node.LEARN_TEMPERATURE
        return {
            "classifier": node.CLASSIFIER,
            "temperature": node.TEXT_TEMPERATURE if trained_without else node.TEMPERATURE,
            "ensemble_weight": node.ENSEMBLE_WEIGHT,
        }

    def forward(
        self, prediction: LayerPrediction, text: Tensor | None = None, temperature: float | Tensor | None = None
    ) -> Tensor:
        """Class probabilities of one layer's masks.

        Args:
            prediction: of the last layer.
            text: (Z, K', Dt) of other names, "no object" last: masks are then classified by `text`, whatever the
                setting, since the linear classifier knows the training classes only. None = the training classes.
            temperature: a learned one, instead of the setting's.

        Returns:
            (B, Q, C), or (B, Q, K' - 1) for other names.
        """
        similarity = prediction.similarity if text is None else prediction.similarity_to(text)
        return classify_masks(
            prediction.class_logits,
            similarity,
            classifier=self.classifier if text is None else "text",
            temperature=self.temperature if temperature is None else temperature,
            ensemble_weight=self.ensemble_weight,
        )
