"""Models as functions from tensors to tensors, which exporters can trace: normalised, padded and resized inside.

A closed graph goes from images to scores or labels of fixed classes. An open one is cut in two: features, which depend
on the images alone, and the scores of any names for these features.

Shapes: B images, H and W = images, K names (in a closed graph the model's C classes), Z contexts per name, Dt text
width, Q mask queries, h and w = masks or patches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import MTACLIP, TagCLIP
from ..modeling.mask_classifier import classify_masks
from ..modeling.outputs import cosines
from ..modeling.tagclip.trusty_scores import trusty_scores
from .names import no_object_features, text_features

RETURNS = ("scores", "labels")


class Parts(nn.Module):
    """The parts of a model that graphs are made of; one subclass per meta-architecture.

    Attributes:
        feature_names: of the tensors that `features` returns.
        name_inputs: of the tensors about K names that `open_scores` takes.
        only_features, only_names: modules that `open_scores` and `features`, respectively, do not need.
    """

    feature_names: tuple[str, ...]
    name_inputs: tuple[str, ...]
    only_features: tuple[str, ...]
    only_names: tuple[str, ...]

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What depends on the images, (B, 3, H, W) normalised and padded, but not on names."""
        raise NotImplementedError

    def open_scores(self, features: Sequence[Tensor], names: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Scores (B, K, H, W) at the size of padded images, from `features` and the tensors of `name_inputs`."""
        raise NotImplementedError

    def closed_scores(self, images: Tensor) -> Tensor:
        """Scores (B, C, H, W) of the model's classes, from normalised and padded images (B, 3, H, W)."""
        raise NotImplementedError


class MaskParts(Parts):
    """Mask queries: MTA-CLIP, and Mask2Former, which has no names as input.

    Features are `mask_logits` (B, Q, h, w) and `mask_embeddings` (B, Q, Dt) in the space of text.
    """

    feature_names = ("mask_logits", "mask_embeddings")
    name_inputs = ("text",)
    only_features, only_names = ("backbone", "head"), ()

    def __init__(self, model: MTACLIP) -> None:
        super().__init__()
        self.backbone, self.head, self.classifier = model.backbone, model.sem_seg_head, model.mask_classifier
        prompts = model.prompt_learner
        self.temperature = float(self.classifier.temperature(prompts))
        self.register_buffer("text", None if prompts is None else prompts().clone())
        encoded = rows = None
        if prompts is not None and prompts.vocabulary is not None:
            encoded, rows = prompts.encode(prompts.vocabulary).clone(), self.classifier.linear_rows(prompts)
        self.register_buffer("vocabulary", encoded)
        self.register_buffer("linear_rows", rows)
        compares = prompts is not None and self.head.compares_text
        self.register_buffer("no_object", no_object_features(model) if compares else None)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See Parts."""
        output = self.head(self.backbone(images), self.text)
        return output.mask_logits(), output.final.aligned_mask_embed

    def open_scores(self, features: Sequence[Tensor], names: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """See Parts. `text` is (K, Z, Dt)."""
        mask_logits, embeddings = features
        text = torch.cat([names[0], self.no_object]).transpose(0, 1)
        similarity = cosines(embeddings, text)
        probabilities = classify_masks(embeddings, similarity, classifier="text", temperature=self.temperature)
        return _sum_of_masks(probabilities, mask_logits, size)

    def closed_scores(self, images: Tensor) -> Tensor:
        """See Parts."""
        output = self.head(self.backbone(images), self.text)
        probabilities = self.classifier.classify(
            output.final, self.temperature, self.vocabulary, linear_rows=self.linear_rows
        )
        return _sum_of_masks(probabilities, output.mask_logits(), (images.shape[-2], images.shape[-1]))


class PatchParts(Parts):
    """TagCLIP. Features are `image_token` (B, Dt) and `patch_map` (B, Dt, h, w)."""

    feature_names = ("image_token", "patch_map")
    name_inputs = ("text", "seen")
    only_features, only_names = ("backbone",), ("head",)

    def __init__(self, model: TagCLIP) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.gamma, self.weighting = model.gamma, model.trusty_eval
        self.trusty_is_seen = model.labels.trusty_target_is_seen
        names = model.names
        self.register_buffer("text", text_features(model, names))
        self.register_buffer("seen", model.seen_mask(names))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See Parts."""
        return self.backbone(images)

    def open_scores(self, features: Sequence[Tensor], names: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """See Parts. `text` is (K, 1, Dt); `seen` is (K,) bool, True where a name was trained on."""
        text, seen = names
        masks, trusty = self.head(*features, text[:, 0])
        unseen = None
        if trusty is not None:
            unseen = 1 - _probabilities(trusty if self.trusty_is_seen else -trusty, size)
        return trusty_scores(_probabilities(masks, size), unseen, seen, gamma=self.gamma, weighting=self.weighting)

    def closed_scores(self, images: Tensor) -> Tensor:
        """See Parts."""
        return self.open_scores(self.features(images), (self.text, self.seen), (images.shape[-2], images.shape[-1]))


class Graph(nn.Module):
    """Base of the graphs: how images enter, and how scores leave.

    Args:
        model: in evaluation mode, on the CPU.
        returns: scores (B, K, H, W) float32 | labels (B, H, W) int64.
        image_format: channel order that the model expects, "RGB" or "BGR".
    """

    def __init__(self, model: nn.Module, *, returns: str = "scores", image_format: str = "RGB") -> None:
        super().__init__()
        self.parts = parts_of(model)
        self.returns, self.flip, self.divisor = returns, image_format == "BGR", max(1, model.size_divisibility)
        self.register_buffer("mean", model.pixel_mean.clone())
        self.register_buffer("std", model.pixel_std.clone())

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised images, padded at the right and the bottom, from RGB images (B, 3, H, W), values 0..255."""
        images = ((images.flip(1) if self.flip else images).float() - self.mean) / self.std
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor))

    def padded(self, images: Tensor) -> tuple[int, int]:
        """The size that `prepare` pads to."""
        height, width = (side + -side % self.divisor for side in images.shape[-2:])
        return height, width

    def finish(self, scores: Tensor, images: Tensor) -> Tensor:
        """What the graph returns, without padding."""
        scores = scores[..., : images.shape[-2], : images.shape[-1]]
        return scores.argmax(1) if self.returns == "labels" else scores


class ClosedGraph(Graph):
    """Images (B, 3, H, W) uint8 RGB -> scores or labels of the classes in use."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.finish(self.parts.closed_scores(self.prepare(images)), images)


class FeatureGraph(Graph):
    """Images (B, 3, H, W) uint8 RGB -> features, for `NamesGraph`. For arguments see Graph."""

    def __init__(self, model: nn.Module, **options: str) -> None:
        super().__init__(model, **options)
        _drop(self.parts, self.parts.only_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.parts.features(self.prepare(images))


class NamesGraph(Graph):
    """Images (of which only the size is read), their features and tensors about K names -> scores or labels.

    For arguments see Graph.
    """

    def __init__(self, model: nn.Module, **options: str) -> None:
        super().__init__(model, **options)
        _drop(self.parts, self.parts.only_features)

    def forward(self, images: Tensor, features: Sequence[Tensor], names: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return self.finish(self.parts.open_scores(features, names, self.padded(images)), images)


def parts_of(model: nn.Module) -> Parts:
    """The parts of a model; for the error see `check_supported`."""
    check_supported(model)
    return PatchParts(model) if isinstance(model, TagCLIP) else MaskParts(model)  # type: ignore[arg-type]  # MTACLIP


def check_supported(model: nn.Module) -> None:
    """Checks that a model can be exported.

    Raises:
        ValueError: it has another meta-architecture.
    """
    if not isinstance(model, MTACLIP | TagCLIP):
        name = type(model).__name__
        raise ValueError(f"{name} cannot be exported, only MTACLIP (with or without text) and TagCLIP can")


def _drop(parts: Parts, modules: Sequence[str]) -> None:
    """Removes modules, whose weights would otherwise be written to the file."""
    for name in modules:
        delattr(parts, name)


def _sum_of_masks(probabilities: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores (B, K, H, W): sums over queries of class probabilities (B, Q, K) times mask probabilities."""
    return torch.einsum("bqk,bqhw->bkhw", probabilities, _probabilities(mask_logits, size))


def _probabilities(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsampled probabilities (B, ..., H, W) of logits (B, ..., h, w)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).sigmoid()
