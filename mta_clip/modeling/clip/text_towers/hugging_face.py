"""Text encoders of Hugging Face transformers: open_clip's (RoBERTa, XLM-R, mT5, NLLB) and any by folder or id.

Shapes: Z contexts, n vectors per context, K rows of text, T tokens of the longest text, E token width, Dt width of text
features.
"""

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from open_clip import hf_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ....extras import import_extra
from ....files import read_json
from .tower import TEXT_TOWERS, TextTower, insert_contexts

PREFIX = "hf:"  # in MODEL.CLIP.TEXT_NAME: hf:<folder> or hf:<id on the hub>


@TEXT_TOWERS.register()
class HuggingFaceTextTower(TextTower):
    """A text encoder that reads embeddings (`inputs_embeds`), its pooling and its projection.

    Args:
        source: open_clip's `HFTextEncoder`, or a `HuggingFaceModel`; its parameters are shared, not copied.
        checkpointing: recomputes each context in the backward pass, so that only its input is stored.

    Raises:
        ValueError: `source` is neither of these.
    """

    kind = "Hugging Face"
    padding = "masked"

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__(source, checkpointing)
        if problems := self.problems(source):
            raise ValueError(f"{type(source).__name__} is no text tower of the kind {self.kind!r}: {problems}")
        self.transformer, self.pooler, self.proj = source.transformer, source.pooler, source.proj
        config = source.config
        self.kind = f"Hugging Face {config.model_type}, {type(self.pooler).__name__.removesuffix('Pooler').lower()}"
        # RoBERTa's first two positions are those of padding; relative positions have no limit.
        self.context_length = getattr(config, "max_position_embeddings", 514) - 2
        self.width = self.transformer.get_input_embeddings().embedding_dim
        outputs = [layer.out_features for layer in self.proj.modules() if isinstance(layer, nn.Linear)]
        self.text_dim = outputs[-1] if outputs else config.hidden_size

    @staticmethod
    def problems(source: nn.Module) -> list[str]:
        """See TextTower."""
        known = isinstance(source, (hf_model.HFTextEncoder, HuggingFaceModel))
        return [] if known else ["it is no encoder of Hugging Face transformers"]

    def forward(self, tokens: Tensor, contexts: Tensor | None = None, start: int = 1) -> Tensor:
        """See TextTower."""
        tokens = tokens.to(self.transformer.get_input_embeddings().weight.device, non_blocking=True)
        embedded = insert_contexts(self.embed(tokens.clamp(min=0)), contexts, start)
        self.check_length(embedded.shape[2])
        # True for contexts: what is in front of the text is never padding.
        attended = nn.functional.pad(tokens >= 0, (embedded.shape[2] - tokens.shape[1], 0), value=True).long()
        features = []
        for texts in embedded:
            if self.checkpointing and torch.is_grad_enabled():
                features.append(checkpoint(self._run, texts, attended, use_reentrant=False))
            else:
                features.append(self._run(texts, attended))
        return torch.stack(features)

    def embed(self, tokens: Tensor) -> Tensor:
        """See TextTower."""
        return self.transformer.get_input_embeddings()(tokens)

    def _run(self, embedded: Tensor, attended: Tensor) -> Tensor:
        """(K, Dt) from (K, n + T, E) and (K, n + T) int64, 1 where there is a token."""
        output = self.transformer(inputs_embeds=embedded, attention_mask=attended)
        return self.proj(self.pooler(output, attended))


class LastPooler(nn.Module):
    """The last token that is not padding, as in embedding models made of causal language models."""

    def forward(self, output: Any, attended: Tensor) -> Tensor:
        """(K, E) from `output.last_hidden_state` (K, T, E)."""
        return output.last_hidden_state[torch.arange(len(attended), device=attended.device), attended.sum(1) - 1]


POOLERS = {"mean": hf_model.MeanPooler, "cls": hf_model.ClsLastHiddenStatePooler, "last": LastPooler}


class HuggingFaceModel(nn.Module):
    """A text encoder by folder or id, with its own weights, and how a text is read out of it.

    Args:
        name: folder of a saved model, or an id on the hub (downloaded into the Hugging Face cache).
        pooling: mean, cls or last; "" = that of its `1_Pooling/config.json` (sentence-transformers), else mean.
        random_weights: the same architecture and tokenizer without what it has learned, for comparison.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: the name looks like a folder, but there is none.
        OSError: the folder or the download is not a model.
        ValueError: unknown `pooling`, or a model that does not read embeddings of tokens.
    """

    def __init__(self, name: str, pooling: str = "", random_weights: bool = False):
        super().__init__()
        if random_weights:
            config = _from_pretrained("AutoConfig", name)
            model = _transformers(name).AutoModel.from_config(config)
        else:
            model = _load_complete(name)
        model = model.float()  # files in half precision are loaded as such
        self.config = model.config
        self.transformer = model.get_encoder() if getattr(self.config, "is_encoder_decoder", False) else model
        if self.transformer.main_input_name != "input_ids" or not hasattr(self.config, "hidden_size"):
            raise ValueError(
                f"MODEL.CLIP.TEXT_NAME {PREFIX}{name}: {type(model).__name__} is no encoder of text alone; CLIP models "
                "are built by the names of their open_clip architectures"
            )
        if hasattr(self.transformer, "pooler"):
            self.transformer.pooler = None  # not run; sentence encoders come without weights for it
        pooling = pooling or _own_pooling(name)
        if pooling not in POOLERS:
            raise ValueError(f"MODEL.CLIP.TEXT_POOLING is {pooling!r}, expected {', '.join(POOLERS)} or ''")
        self.pooler, self.proj = POOLERS[pooling](), nn.Identity()


def hidden_size(name: str) -> int:
    """Dt of a model by folder or id; reads its configuration only. Raises what `HuggingFaceModel` does."""
    return _from_pretrained("AutoConfig", name).hidden_size


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or id. Raises what `HuggingFaceModel` does."""
    return _from_pretrained("AutoTokenizer", name)


def _transformers(name: str) -> ModuleType:
    return import_extra("transformers", "hf", f"MODEL.CLIP.TEXT_NAME {PREFIX}{name}")


def _load_complete(name: str) -> nn.Module:
    """The model with all its weights; transformers would only warn of those that the files lack."""
    log = _transformers(name).utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    try:
        model, found = _from_pretrained("AutoModel", name, output_loading_info=True)
    finally:
        log.set_verbosity(verbosity)
    missing = [key for key in found["missing_keys"] if not key.startswith("pooler.")]  # the pooler is not run
    if missing:
        raise OSError(
            f"MODEL.CLIP.TEXT_NAME: {PREFIX}{name} lacks {len(missing)} of its model's weights, such as {missing[0]}; "
            "copy or download it again"
        )
    return model


def _from_pretrained(auto_class: str, name: str, **options: Any) -> Any:
    transformers = _transformers(name)
    source = _folder_or_id(name)
    if name.startswith(("/", ".", "~")) and not Path(source).is_dir():
        raise FileNotFoundError(f"MODEL.CLIP.TEXT_NAME: no such folder: {Path(name).expanduser()}")
    try:
        return getattr(transformers, auto_class).from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RecursionError, pickle.UnpicklingError) as error:
        unsafe = isinstance(error, pickle.UnpicklingError)  # torch's message suggests to trust the file
        reason = "its weights are a pickle that is damaged or would run code" if unsafe else error
        raise OSError(
            f"MODEL.CLIP.TEXT_NAME: {PREFIX}{name} could not be loaded ({reason}). Expected a folder with config.json, "
            "tokenizer and weights, or an id on the hub; without network, copy the Hugging Face cache folder "
            "(~/.cache/huggingface, or $HF_HOME) to this machine"
        ) from error


def _own_pooling(name: str) -> str:
    """The pooling that sentence-transformers stores with a model; "mean" if it is not one of these."""
    transformers = _transformers(name)
    file = transformers.utils.cached_file(
        _folder_or_id(name), "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    stored = read_json(file) if file else {}
    wanted = {"pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}
    return next((pooling for key, pooling in wanted.items() if stored.get(key)), "mean")


def _folder_or_id(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name
