"""The masks behind a label map: what each mask query of an image sees, and what names it.

The score of a class at a pixel is the sum over queries of class probability times mask probability (Mask2Former,
semantic inference). So each query has a share of the score of a region, a class by the linear classifier, a class by
text, and for that class a context that it resembles most (z* of MTA-CLIP).

Shapes: Q mask queries, C classes in use, T classes of the training, Z contexts, H and W = an image before padding, h
and w = its mask logits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..modeling import MTACLIP
from ..modeling.mask_classifier import classify_masks, similarity_to_names

NO_OBJECT = "no object"


@dataclass(frozen=True)
class QueryVote:
    """The part of one query in the label of a region."""

    query: int
    share: float  # of the score of the region's class, 0..1
    mask: NDArray[np.float32]  # (h, w), probabilities 0..1
    linear: tuple[str, float]  # class by the linear classifier, and its probability
    text: tuple[str, float] | None  # the same by similarity to text; None without text
    context: int | None  # that the mask resembles most, of those of its class by text; None without text


@dataclass(frozen=True, kw_only=True)
class MaskQueries:
    """All mask queries of an image."""

    masks: NDArray[np.float32]  # (Q, h, w), probabilities 0..1
    class_probs: NDArray[np.float32]  # (Q, C), those of which label maps are made
    linear: NDArray[np.float32]  # (Q, T + 1), last "no object"
    text: NDArray[np.float32] | None  # (Q, C + 1), last "no object"; None without text
    contexts: NDArray[np.int64] | None  # (Q, C + 1), the context that a mask resembles most, for each class
    num_contexts: int  # Z, 0 without text
    class_names: tuple[str, ...]  # C
    trained_names: tuple[str, ...]  # T

    def votes(self, region: NDArray[np.bool_], label: int) -> list[QueryVote]:
        """The queries that a class got its score from in a region, the largest share first.

        Args:
            region: (H, W) at the size of the image, or any other of its shape.
            label: index of the class in `class_names`.

        Raises:
            ValueError: the region is empty, or the label is none of these classes.
        """
        if not region.any():
            raise ValueError("the region has no pixel")
        if not 0 <= label < len(self.class_names):
            raise ValueError(f"{label} is no label of {len(self.class_names)} classes")
        height, width = self.masks.shape[1:]
        weight = cv2.resize(region.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        scores = self.class_probs[:, label] * np.einsum("qhw,hw->q", self.masks, weight)
        shares = scores / max(scores.sum(), np.finfo(np.float32).tiny)
        return [self._vote(query, float(shares[query])) for query in np.argsort(-shares, kind="stable").tolist()]

    def _vote(self, query: int, share: float) -> QueryVote:
        text = None if self.text is None else _best(self.text[query], self.class_names)
        context = None
        if self.text is not None and self.contexts is not None:
            context = int(self.contexts[query, int(self.text[query].argmax())])
        return QueryVote(query, share, self.masks[query], _best(self.linear[query], self.trained_names), text, context)


@torch.no_grad()
def mask_queries(
    model: nn.Module, image: Tensor, *, class_names: Sequence[str], trained_names: Sequence[str]
) -> MaskQueries:
    """Runs a model on one whole image, without sliding windows, and keeps its masks.

    Args:
        model: in evaluation mode, set to the vocabulary in use.
        image: (3, H, W) RGB, 0..255, as the model takes it.
        class_names: in use, C.
        trained_names: of the linear classifier, T.

    Raises:
        ValueError: the model has no mask queries.
    """
    if not isinstance(model, MTACLIP):
        raise ValueError(f"a {type(model).__name__} has no mask queries: its masks belong to the classes themselves")
    with model.inference_precision():
        images = model.preprocess([{"image": image}])
        output, class_probs, mask_logits = model.classified_masks(images.tensor)
    prediction, prompts = output.final, model.prompt_learner
    similarity = prediction.similarity
    if similarity is not None and prompts.vocabulary is not None:
        texts, owners = prompts.texts_of(prompts.vocabulary)
        similarity = similarity_to_names(prediction, prompts.encode(texts), owners)
    text = None
    if similarity is not None:
        temperature = model.mask_classifier.temperature(prompts)
        text = classify_masks(prediction.class_logits, similarity, classifier="text", temperature=temperature)[0]
        text = torch.cat([text, 1 - text.sum(-1, keepdim=True)], dim=-1)
    stride = images.tensor.shape[-1] / mask_logits.shape[-1]
    height, width = (math.ceil(side / stride) for side in images.image_sizes[0])
    return MaskQueries(
        masks=_numpy(mask_logits[0, :, :height, :width].float().sigmoid()),
        class_probs=_numpy(class_probs[0].float()),
        linear=_numpy(prediction.class_logits[0].float().softmax(-1)),
        text=None if text is None else _numpy(text),
        contexts=None if similarity is None else _numpy(similarity[:, 0].argmax(0)),
        num_contexts=0 if similarity is None else len(similarity),
        class_names=tuple(class_names),
        trained_names=tuple(trained_names),
    )


def _best(probabilities: NDArray[np.float32], names: Sequence[str]) -> tuple[str, float]:
    index = int(probabilities.argmax())
    return (*names, NO_OBJECT)[index], float(probabilities[index])


def _numpy(tensor: Tensor) -> NDArray:
    return np.ascontiguousarray(tensor.cpu().numpy())
