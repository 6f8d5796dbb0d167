"""The Mask-Text Decoder of MTA-CLIP (arXiv 2407.21654): mask queries and text queries decoded together.

Shapes: B images, Q mask queries, C classes, K = C + 1 (last = no object), Z contexts, N = Q + Z * K queries, D decoder
width, Dt text width, Dm mask embedding width.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..clip.text_towers import text_dim
from ..outputs import LayerPrediction
from .masked_decoder import MultiScaleMaskedTransformerDecoder
from .registry import TRANSFORMER_DECODERS


@TRANSFORMER_DECODERS.register()
class MaskTextDecoder(MultiScaleMaskedTransformerDecoder):
    """Mask2Former's decoder, in which the text of every class and context is also a query with a mask of its own.

    Queries are laid out as [mask queries | context 0: K rows | context 1: K rows | ...]. The similarity of a mask and
    a text row is the cosine of Linear(mask query) and text' = text + gamma * LayerNorm(Linear(text query)). With its
    small gamma, text' starts close to CLIP's text and is updated together with the masks.

    Args:
        num_contexts: Z.
        text_dim: Dt.
        gamma_init: initial value of all Dt entries of gamma.
        text_queries: whether text rows are queries; otherwise they are only compared with the masks, unchanged.
        compare: whether masks are compared with text; otherwise there is no similarity and there are no parameters for
            it, because without a similarity loss they would never be trained.
        **kwargs: arguments of MultiScaleMaskedTransformerDecoder.

    Raises:
        ValueError: text is neither used as queries nor compared; see also MultiScaleMaskedTransformerDecoder.
    """

    takes_text = True

    @configurable
    def __init__(
        self,
        *,
        num_contexts: int,
        text_dim: int,
        gamma_init: float = 1e-4,
        text_queries: bool = True,
        compare: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not (text_queries or compare):
            raise ValueError(
                "with MODEL.MTA.TEXT_QUERIES False and MODEL.MTA.SIMILARITY_WEIGHT 0 text has no part in the decoder; "
                "use MultiScaleMaskedTransformerDecoder and set MODEL.PROMPT.NAME to ''"
            )
        self.text_shape = (num_contexts, self.class_embed.out_features, text_dim)
        self.text_queries = text_queries
        self.compare = compare
        hidden_dim = self.query_feat.embedding_dim
        self.query_norm = nn.LayerNorm(hidden_dim)
        if compare:
            self.mask_align = nn.Linear(hidden_dim, text_dim)
        if text_queries:
            num_text_queries = num_contexts * self.class_embed.out_features
            self.query_embed = nn.Embedding(self.num_queries + num_text_queries, hidden_dim)
            self.class_rows |= {"query_embed.weight": (self.num_queries, num_contexts)}
            self.text_proj = nn.Linear(text_dim, hidden_dim)
        if text_queries and compare:
            self.text_update = nn.Linear(hidden_dim, text_dim)
            self.text_update_norm = nn.LayerNorm(text_dim)
            self.gamma = nn.Parameter(torch.full((text_dim,), gamma_init))

    @classmethod
    def from_config(cls, cfg: CfgNode, *, in_channels: int, mask_dim: int) -> dict:
        """Constructor arguments from a config."""
        prompt = cfg.MODEL.PROMPT
        return {
            **super().from_config(cfg, in_channels=in_channels, mask_dim=mask_dim),
            "num_contexts": len(prompt.TEMPLATES) if prompt.NAME == "TemplatePrompt" else prompt.NUM_CONTEXTS,
            "text_dim": text_dim(cfg.MODEL.CLIP.TEXT_NAME or cfg.MODEL.CLIP.NAME),
            "gamma_init": cfg.MODEL.MTA.GAMMA_INIT,
            "text_queries": cfg.MODEL.MTA.TEXT_QUERIES,
            "compare": bool(cfg.MODEL.MTA.SIMILARITY_WEIGHT),
        }

    def initial_queries(self, text: Tensor | None, batch_size: int) -> Tensor:
        """See the base class. Appends projected text rows to the learned mask queries and applies LayerNorm.

        The text is (Z, K, Dt), or (Z, B, K, Dt) if it differs between images.

        Raises:
            ValueError: no text, or text of another shape.
        """
        text = self._check_text(text)
        queries = self.query_feat.weight
        if self.text_queries:
            rows = self.text_proj(text.flatten(0, 1) if text.dim() == 3 else text.transpose(0, 1).flatten(1, 2))
            queries = torch.cat([queries.expand(*rows.shape[:-2], -1, -1), rows], dim=-2)
        return self.query_norm(queries).expand(batch_size, -1, -1)

    def predict(  # type: ignore[override]  # `initial_queries` has checked the text
        self, normed: Tensor, mask_embed: Tensor, text: Tensor
    ) -> LayerPrediction:
        """See the base class. Adds the mask embeddings in text space and their similarity to every text row."""
        prediction = super().predict(normed, mask_embed, text)
        if not self.compare:
            return prediction
        prediction.aligned_mask_embed = self.mask_align(normed[:, : self.num_queries])
        if self.text_queries:
            update = self.text_update_norm(self.text_update(normed[:, self.num_queries :]))
            update = update.unflatten(1, self.text_shape[:2]).transpose(0, 1)  # (Z, B, K, Dt)
            text = (text[:, None] if text.dim() == 3 else text) + self.gamma * update
        prediction.similarity = prediction.similarity_to(text)
        return prediction

    def _check_text(self, text: Tensor | None) -> Tensor:
        if text is None or (text.shape[0], *text.shape[-2:]) != self.text_shape:
            contexts, rows, width = self.text_shape
            raise ValueError(
                f"MaskTextDecoder needs the text of its training classes, ({contexts} contexts, [images,] {rows} rows "
                f"with no-object last, width {width}), got {None if text is None else tuple(text.shape)}; to classify "
                "masks by other names, compare them afterwards: LayerPrediction.similarity_to(text)"
            )
        return text
