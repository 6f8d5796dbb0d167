"""Class probabilities of masks: from class logits, from their similarity to text, or from both.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts per class; C' and K' = the same
for a vocabulary of other names.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..data.synonyms import find_classes
from ..data.zero_shot import held_out_classes
from .outputs import LayerPrediction
from .text import PromptLearner
from .text.synonyms import best_of_synonyms

CLASSIFIERS = ("linear", "text", "ensemble")


def classify_masks(
    class_logits: Tensor,
    similarity: Tensor | None = None,
    *,
    classifier: str = "linear",
    temperature: float | Tensor = 0.07,
    ensemble_weight: float = 0.5,
    linear_rows: Tensor | None = None,
) -> Tensor:
    """Computes class probabilities of masks.

    - linear: softmax of the class logits.
    - text: softmax of similarity / temperature over the Z * K prompts, as in the denominator of L_sim (MTA-CLIP), then
      summed over the contexts of each class.
    - ensemble: their weighted geometric mean, normalised over the K rows. With `linear_rows`, a row of text that the
      linear classifier has no row for counts by text alone.

    Args:
        class_logits: (B, Q, K).
        similarity: (Z, B, Q, K) cosines; for `text`, and for `ensemble` with `linear_rows`, also (Z, B, Q, K').
        classifier: linear | text | ensemble.
        temperature: temperature of the text softmax, above 0.
        ensemble_weight: share of text in the ensemble, from 0 (linear) to 1 (text).
        linear_rows: (K',) int64, the row of the class logits for each row of text, -1 if there is none; None: the same.

    Returns:
        (B, Q, C), for other names (B, Q, C'), float32 in [0, 1]; with the omitted "no object" they sum to 1.

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
    log_linear = class_logits.float().log_softmax(-1)
    if linear_rows is not None:
        log_linear = torch.where(linear_rows < 0, log_text, log_linear[..., linear_rows])
    if log_text.shape != log_linear.shape:
        raise ValueError(
            f"an ensemble needs the same classes in both parts: class logits have {class_logits.shape[-1]} rows, the "
            f"similarity {log_text.shape[-1]}; say in linear_rows which belong together"
        )
    return torch.lerp(log_linear, log_text, ensemble_weight).softmax(-1)[..., :-1]


def similarity_to_names(prediction: LayerPrediction, text: Tensor, owners: Sequence[int] | None) -> Tensor:
    """Cosines (Z, B, Q, K') of masks with other names, of each that of its best synonym, and with "no object".

    Args:
        text: (Z, S + 1, Dt) of all synonyms, the last of "no object".
        owners: of each of the S texts, the number of its name; None: each is a name.

    Raises:
        ValueError: see `LayerPrediction.similarity_to`.
    """
    similarity = prediction.similarity_to(text)
    return similarity if owners is None else best_of_synonyms(similarity, [*owners, owners[-1] + 1], dim=-1)


class MaskClassifier(nn.Module):
    """`classify_masks` with its settings.

    Args:
        classifier: see `classify_masks`.
        ensemble_weight: see `classify_masks`.
        text_temperature: temperature of the text softmax if training used raw cosines and has none; above 0.
        held_out: training classes without labels in training, which the linear classifier knows only as absent.

    Raises:
        ValueError: unknown classifier, a temperature that is not positive, or a weight outside [0, 1].
    """

    @configurable
    def __init__(
        self,
        *,
        classifier: str = "linear",
        ensemble_weight: float = 0.5,
        text_temperature: float = 0.07,
        held_out: Sequence[str] = (),
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
        self.held_out = frozenset(held_out)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments from MODEL.MTA and DATASETS."""
        node = cfg.MODEL.MTA
        return {
            "classifier": node.CLASSIFIER,
            "ensemble_weight": node.ENSEMBLE_WEIGHT,
            "text_temperature": node.TEXT_TEMPERATURE,
            "held_out": held_out_classes(cfg),
        }

    def forward(self, prediction: LayerPrediction, prompts: PromptLearner | None = None) -> Tensor:
        """Class probabilities (B, Q, C) float32 in [0, 1] of the masks of one layer; with a vocabulary (B, Q, C').

        Masks are compared with a vocabulary of other names by `text`, since the linear classifier knows only the
        training classes. With `ensemble`, those names that are training classes with labels count by both.

        Args:
            prediction: prediction of the last layer.
            prompts: source of text and temperature; None without text.

        Raises:
            ValueError: see `classify_masks` and `LayerPrediction.similarity_to`.
        """
        if prompts is None or prompts.vocabulary is None:
            return self.classify(prediction, self.temperature(prompts))
        texts, owners = prompts.texts_of(prompts.vocabulary)
        return self.classify(
            prediction, self.temperature(prompts), prompts.encode(texts), owners, self.linear_rows(prompts)
        )

    def classify(
        self,
        prediction: LayerPrediction,
        temperature: float | Tensor,
        vocabulary: Tensor | None = None,
        owners: Sequence[int] | None = None,
        linear_rows: Tensor | None = None,
    ) -> Tensor:
        """`forward` from tensors alone.

        Args:
            temperature: of the text softmax.
            vocabulary: text (Z, S + 1, Dt) of other names and their synonyms, the last of "no object"; None: none.
            owners: of each of the S texts, the number of its name; None: each is a name.
            linear_rows: see `linear_rows`.
        """
        classifier, similarity = self.classifier, prediction.similarity
        if vocabulary is not None:
            classifier = "text" if linear_rows is None else "ensemble"
            similarity = similarity_to_names(prediction, vocabulary, owners)
        if linear_rows is not None:
            linear_rows = linear_rows.to(prediction.class_logits.device, non_blocking=True)
        return classify_masks(
            prediction.class_logits,
            similarity,
            classifier=classifier,
            temperature=temperature,
            ensemble_weight=self.ensemble_weight,
            linear_rows=None
            if linear_rows is None
            else linear_rows.to(prediction.class_logits.device, non_blocking=True),
        )

    def temperature(self, prompts: PromptLearner | None) -> float | Tensor:
        """Temperature of the text softmax: that of training, or `text_temperature` if training used raw cosines."""
        if prompts is None or prompts.fixed_temperature == 1:  # raw cosines
            return self.text_temperature
        return prompts.temperature

    def linear_rows(self, prompts: PromptLearner) -> Tensor | None:
        """For each name of the vocabulary, and last for "no object", its row of the linear classifier, or -1: (K',).

        None if the classifier is not an ensemble, and so does not join the two.
        """
        if self.classifier != "ensemble":
            return None
        own = prompts.class_names
        names = prompts.vocabulary or own
        rows = [-1 if i < 0 or own[i] in self.held_out else i for i in find_classes(names, own)]
        return torch.tensor([*rows, len(own)])
