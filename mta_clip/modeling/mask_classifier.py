"""Class probabilities of masks: from class logits, from their similarity to text, or from both.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class; C' and K' = the same
for a vocabulary of other names.
"""

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .outputs import LayerPrediction
from .text import PromptLearner

CLASSIFIERS = ("linear", "text", "ensemble")


def classify_masks(
    class_logits: Tensor,
    similarity: Tensor | None = None,
    *,
    classifier: str = "linear",
    temperature: float | Tensor = 0.07,
    ensemble_weight: float = 0.5,
) -> Tensor:
    """Computes class probabilities of masks.

    - linear: softmax of the class logits.
    - text: softmax of similarity / temperature over the Z * K prompts, as in the denominator of L_sim (MTA-CLIP), then
      summed over the contexts of each class.
    - ensemble: their weighted geometric mean, normalised over the K rows.

    Args:
        class_logits: (B, Q, K).
        similarity: (Z, B, Q, K) cosines; for `text` also (Z, B, Q, K').
        classifier: linear | text | ensemble.
        temperature: temperature of the text softmax, above 0.
        ensemble_weight: share of text in the ensemble, from 0 (linear) to 1 (text).

    Returns:
        (B, Q, C), for `text` (B, Q, C'), float32 in [0, 1]; with the omitted "no object" they sum to 1.

    Raises:
        ValueError: unknown classifier, no similarity although it is needed, or an ensemble of different rows.
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
            f"an ensemble needs the same classes in both parts: class logits have {class_logits.shape[-1]} rows, the "
            f"similarity {log_text.shape[-1]}; classify other names with 'text'"
        )
    log_linear = class_logits.float().log_softmax(-1)
    return torch.lerp(log_linear, log_text, ensemble_weight).softmax(-1)[..., :-1]


class MaskClassifier(nn.Module):
    """`classify_masks` with its settings.

    Args:
        classifier, ensemble_weight: see `classify_masks`.
        text_temperature: temperature of the text softmax if training used raw cosines and has none; above 0.

    Raises:
        ValueError: unknown classifier, a temperature that is not positive, or a weight outside [0, 1].
    """

    @configurable
    def __init__(
        self, *, classifier: str = "linear", ensemble_weight: float = 0.5, text_temperature: float = 0.07
    ) -> None:
        super().__init__()
        if classifier not in CLASSIFIERS:
            raise ValueError(
                f"unknown classifier {classifier!r} (MODEL.MTA.CLASSIFIER): one of {', '.join(CLASSIFIERS)}"
            )
        if not text_temperature > 0 or not 0 <= ensemble_weight <= 1:
            raise ValueError(
                f"MODEL.MTA.TEXT_TEMPERATURE must be above 0 and ENSEMBLE_WEIGHT in 0..1, got {text_temperature} and "
                f"{ensemble_weight}"
            )
        self.classifier = classifier
        self.ensemble_weight = ensemble_weight
        self.text_temperature = text_temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments from MODEL.MTA."""
        node = cfg.MODEL.MTA
        return {
            "classifier": node.CLASSIFIER,
            "ensemble_weight": node.ENSEMBLE_WEIGHT,
            "text_temperature": node.TEXT_TEMPERATURE,
        }

    def forward(self, prediction: LayerPrediction, prompts: PromptLearner | None = None) -> Tensor:
        """Class probabilities (B, Q, C) float32 in [0, 1] of the masks of one layer; with a vocabulary (B, Q, C').

        Args:
            prediction: prediction of the last layer.
            prompts: source of text and temperature; None without text. If it has a vocabulary of other names, masks are
                always classified by `text`, since the linear classifier knows only the training classes.

        Raises:
            ValueError: see `classify_masks` and `LayerPrediction.similarity_to`.
        """
        named = prompts is not None and prompts.vocabulary is not None
        vocabulary = prompts.encode(prompts.vocabulary) if named else None
        return self.classify(prediction, self.temperature(prompts), vocabulary)

    def classify(
        self, prediction: LayerPrediction, temperature: float | Tensor, vocabulary: Tensor | None = None
    ) -> Tensor:
        """`forward` from tensors alone: the text softmax's temperature, and text (Z, K', Dt) of other names or None."""
        return classify_masks(
            prediction.class_logits,
            prediction.similarity if vocabulary is None else prediction.similarity_to(vocabulary),
            classifier=self.classifier if vocabulary is None else "text",
            temperature=temperature,
            ensemble_weight=self.ensemble_weight,
        )

    def temperature(self, prompts: PromptLearner | None) -> float | Tensor:
        """Temperature of the text softmax: that of training, or `text_temperature` if training used raw cosines."""
        raw_cosines = prompts is None or prompts.fixed_temperature == 1
        return self.text_temperature if raw_cosines else prompts.temperature
