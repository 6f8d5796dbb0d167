"""MTA-CLIP (ECCV 2024), and Mask2Former (CVPR 2022) as the same model without text.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class, Dt text width,
H and W = padded input, h and w = a quarter of it.
"""

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...data.zero_shot import protocol_from_config
from ..criterion.criterion import MaskTextCriterion
from ..criterion.targets import targets_from_sem_seg
from ..inference import MaskClassifier, build_sliding_window, score_blocks, semantic_inference, semantic_labels
from ..inference.sliding_window import Scores
from ..outputs import HeadOutput
from ..prompt import PromptLearner, build_prompt_learner
from .base import SegmentationModel


@META_ARCH_REGISTRY.register()
class MTACLIP(SegmentationModel):
    """Image encoder -> pixel decoder -> Mask-Text Decoder, with text from learned prompts.

    Held-out classes (DATASETS.UNSEEN_CLASSES, inductive) have no labels in training, but their names stay text queries
    and rows of the linear classifier, both trained as absent, and negatives of the similarity loss. What can still
    recognise them is similarity to their text (MODEL.MTA.CLASSIFIER text).

    Args:
        backbone: images (B, 3, H, W) -> res2..res5.
        sem_seg_head: those features and text (Z, K, Dt) -> HeadOutput.
        criterion: HeadOutput and targets -> weighted losses.
        prompt_learner: gives the text of all classes; None is Mask2Former.
        mask_classifier: gives masks their class probabilities at inference.
        ignore_label: value of label maps that belongs to no class.
        compile_networks: compiles image encoder, pixel decoder and decoder at their first call.
        pixel_mean, pixel_std, size_divisibility, sliding_window, label_maps_only, precision: see
            SegmentationModel.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: MaskTextCriterion,
        prompt_learner: PromptLearner | None,
        mask_classifier: MaskClassifier,
        ignore_label: int = 255,
        compile_networks: bool = False,
        **common,
    ):
        super().__init__(**common)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.prompt_learner = prompt_learner
        self.criterion = criterion
        self.mask_classifier = mask_classifier
        self.ignore_label = ignore_label
        self.vocabulary: list[str] | None = None
        self._vocabulary_text: Tensor | None = None
        if compile_networks:
            self.compile()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        protocol_from_config(cfg, supported=("inductive", "supervised"))
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": MaskTextCriterion(cfg),
            "prompt_learner": build_prompt_learner(cfg),
            "mask_classifier": MaskClassifier(cfg),
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "compile_networks": cfg.MODEL.COMPILE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "sliding_window": build_sliding_window(cfg),
            "label_maps_only": cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY,
            "precision": cfg.TEST.PRECISION,
        }

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Classifies masks at inference by similarity to any names, instead of by the training classes.

        Args:
            names: class names, one output channel each, in this order; None goes back to the training classes.
                Encoded with the present weights: load a checkpoint first.

        Raises:
            ValueError: the model compares no masks with text, or a name is empty or too long for the text encoder.
        """
        if names is not None and self.criterion.similarity_loss is None:
            raise ValueError(
                "this model has not learned to compare masks with text (MODEL.PROMPT.NAME is empty or "
                "MODEL.MTA.SIMILARITY_WEIGHT is 0), so it only knows its training classes"
            )
        self._vocabulary_text = None if names is None else self.prompt_learner.encode(list(names)).detach()
        self.vocabulary = None if names is None else list(names)

    def predict_masks(self, images: Tensor) -> HeadOutput:
        """Mask queries' predictions for normalised, padded images (B, 3, H, W)."""
        text = None if self.prompt_learner is None else self.prompt_learner()
        # Convolutions on CPU, and in half precision on GPUs, are faster with channels last.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return self.sem_seg_head(features, text)

    def networks(self) -> list[nn.Module]:
        """See SegmentationModel."""
        return [self.backbone, self.sem_seg_head.pixel_decoder, self.sem_seg_head.transformer_decoder]

    def autocast_modules(self) -> list[nn.Module]:
        """See SegmentationModel."""
        return self.networks()

    def losses(self, images: Tensor, sem_segs: list[Tensor]) -> dict[str, Tensor]:
        targets = targets_from_sem_seg(sem_segs, images.shape[-2:], self.ignore_label)
        return self.criterion(self.predict_masks(images), targets)

    def scores(self, images: Tensor) -> Tensor:
        """See SegmentationModel."""
        return semantic_inference(*self._classified_masks(images), images.shape[-2:])

    def window_scores(self, images: Tensor) -> Iterable[Scores]:
        """See SegmentationModel. In blocks: whole scores would be new memory for every window."""
        padded = self.pad(images)
        sizes = padded.shape[-2:], images.shape[-2:]
        return (score_blocks(*one, *sizes) for one in zip(*self._classified_masks(padded), strict=True))

    def inference(
        self, batched_inputs: list[dict], images: ImageList, label_maps_only: bool
    ) -> list[dict[str, Tensor]]:
        """See SegmentationModel. Whole images go from masks to the output size in one step."""
        if self.sliding_window is not None:
            return super().inference(batched_inputs, images, label_maps_only)
        name, combine = ("labels", semantic_labels) if label_maps_only else ("sem_seg", semantic_inference)
        class_probs, mask_logits = self._classified_masks(images.tensor)
        results = []
        for i, (inputs, (h, w)) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            output_size = inputs.get("height", h), inputs.get("width", w)
            one = slice(i, i + 1)
            result = combine(class_probs[one], mask_logits[one], images.tensor.shape[-2:], (h, w), output_size)
            results.append({name: result[0]})
        return results

    def _classified_masks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (B, Q, C) and mask logits (B, Q, h, w)."""
        output = self.predict_masks(images)
        similarity_loss = self.criterion.similarity_loss
        learned = similarity_loss.temperature if similarity_loss is not None and similarity_loss.learned else None
        text = None if self._vocabulary_text is None else self._vocabulary_text.to(images.device)
        return self.mask_classifier(output.final, text, learned), output.mask_logits()
