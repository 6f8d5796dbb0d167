"""From class names to text features: prompts, cache, vocabulary and temperature, for both meta-architectures.

Shapes: Z contexts or templates, C classes, K = C + 1 rows of text (the last for "no object"), Dt text width; C' and
K' = the same for any list of names.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from ..clip.text_encoder import CLIPTextEncoder
from .class_names import class_names_from_config, clean_class_names
from .synonyms import REDUCTIONS, all_synonyms, mean_of_synonyms

_MAX_SCALE = 100.0  # upper bound of a learned 1 / temperature, as in CLIP
_CACHED = 4  # lists of names whose features are kept, e.g. for training, evaluation and a vocabulary


class PromptLearner(nn.Module):
    """Turns class names into text features, Z per class; a subclass defines how a name becomes a prompt.

    Features that cannot change are computed once, in full precision, and cached: always at inference, in training only
    if nothing is learned. A change between training and evaluation, loading a state dict, and moving to another device
    or dtype clear the cache.

    A name can be several synonyms, separated by `;`. In training, and as text queries, they are one row of text, their
    mean direction; `synonyms` says what they are at inference.

    Args:
        text_encoder: frozen.
        class_names: C names.
        no_object_name: text of the "no object" row.
        temperature: tau, above 0; training divides similarities to these features by it; 1 = raw cosines.
        learn_temperature: learns 1 / tau (the parameter is its logarithm, at most log 100), starting at `temperature`.
        synonyms: how names of a vocabulary count that have several synonyms: max, by the best of them | mean, by their
            mean direction.

    Raises:
        ValueError: there are no names, one is empty, the temperature is not positive, or `synonyms` is unknown.
    """

    learned = True  # whether the features depend on trained parameters

    def __init__(
        self,
        *,
        text_encoder: CLIPTextEncoder,
        class_names: Sequence[str],
        no_object_name: str = "none",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        synonyms: str = "max",
    ):
        super().__init__()
        if synonyms not in REDUCTIONS:
            raise ValueError(f"MODEL.PROMPT.SYNONYMS is {synonyms!r}, expected one of {', '.join(REDUCTIONS)}")
        if not temperature > 0:
            raise ValueError(f"MODEL.MTA.TEMPERATURE must be above 0, got {temperature}")
        self.text_encoder = text_encoder
        self.class_names = clean_class_names(class_names)
        self.no_object_name = no_object_name
        self.synonyms = synonyms
        self.fixed_temperature = None if learn_temperature else float(temperature)
        if learn_temperature:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # named as in CLIP
        self.vocabulary: list[str] | None = None
        self._cache: dict[tuple, Tensor] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor arguments that all prompt learners share, from a config.

        Raises:
            ValueError: see `class_names_from_config` and `CLIPTextEncoder`.
        """
        return {
            # first, so that wrong names are reported before weights are downloaded
            "class_names": class_names_from_config(cfg),
            "text_encoder": CLIPTextEncoder(cfg),
            "no_object_name": cfg.MODEL.PROMPT.NO_OBJECT_NAME,
            "synonyms": cfg.MODEL.PROMPT.SYNONYMS,
            "temperature": cfg.MODEL.MTA.TEMPERATURE,
            # without the similarity loss, nothing would train it
            "learn_temperature": cfg.MODEL.MTA.LEARN_TEMPERATURE and bool(cfg.MODEL.MTA.SIMILARITY_WEIGHT),
        }

    @property
    def num_contexts(self) -> int:
        """Z."""
        raise NotImplementedError

    @property
    def text_dim(self) -> int:
        """Dt."""
        return self.text_encoder.text_dim

    @property
    def temperature(self) -> float | Tensor:
        """tau: a number, or a scalar tensor if it is learned."""
        if self.fixed_temperature is not None:
            return self.fixed_temperature
        return (-self.logit_scale.clamp(max=math.log(_MAX_SCALE))).exp()

    def forward(self) -> Tensor:
        """Text features of the training classes and, last, of "no object": (Z, K, Dt), not normalised."""
        if self.training and self.learned:
            return self.encode_classes()
        return self.encode(self.class_names)

    def set_vocabulary(self, names: Sequence[str] | None) -> None:
        """Sets other names for inference; None restores the training classes.

        Only the names are stored. Their features are computed from the current weights when they are needed.

        Raises:
            ValueError: there are no names, or one is empty or too long for the text encoder.
        """
        self._cache.clear()
        if names is not None:
            names = clean_class_names(names)
            self.encode(self.texts_of(names)[0])  # fails here, not at the first image, if a name is too long
        self.vocabulary = names

    def texts_of(self, names: Sequence[str]) -> tuple[list[str], list[int]]:
        """The texts that stand for names at inference, and for each the index of its name; see `synonyms`."""
        return all_synonyms(names) if self.synonyms == "max" else (list(names), list(range(len(names))))

    def encode(self, class_names: Sequence[str]) -> Tensor:
        """Text features (Z, C' + 1, Dt) of any C' names and last of "no object"; not normalised, cached, no gradient.

        A name with several synonyms has one row, their mean direction.

        Raises:
            ValueError: there are no names, or one is empty or too long for the text encoder.
        """
        return self.cached(tuple(class_names), lambda: self._encode_with_synonyms(clean_class_names(class_names)))

    def cached(self, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """Features that depend on this module's weights alone: those kept under `key`, or computed without gradient."""
        if key not in self._cache:
            # Training could not use inference tensors; autocast would lower the precision.
            device_type = next(self.text_encoder.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device_type, enabled=False):
                features = compute()
            while len(self._cache) >= _CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = features
        return self._cache[key]

    def ensemble(self, class_names: Sequence[str]) -> Tensor:
        """Prompt ensemble: features normalised per prompt, averaged, normalised again (CLIP; ZegCLIP, TagCLIP).

        Returns:
            (C', Dt), rows of L2 norm 1, without "no object", for C' names.

        Raises:
            ValueError: see `encode`.
        """
        return F.normalize(F.normalize(self.encode(class_names)[:, :-1], dim=-1).mean(dim=0), dim=-1)

    def encode_classes(self) -> Tensor:
        """Text features of the training classes and "no object", (Z, K, Dt), computed anew and with gradient."""
        return self._encode_with_synonyms(self.class_names)

    def _encode_with_synonyms(self, class_names: Sequence[str]) -> Tensor:
        texts, owners = all_synonyms(class_names)
        return mean_of_synonyms(self.encode_names([*texts, self.no_object_name]), owners)

    def encode_names(self, names: list[str]) -> Tensor:
        """Text features of exactly these K' names, (Z, K', Dt); subclasses implement it."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "PromptLearner":
        """See nn.Module. Clears the cache if the mode changes."""
        if mode != self.training:
            self._cache.clear()
        return super().train(mode)

    def _load_from_state_dict(
        self, *args: Any, **kwargs: Any
    ) -> None:  # also called when a parent module loads its state dict
        self._cache.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> "PromptLearner":
        self._cache.clear()
        return super()._apply(*args, **kwargs)
