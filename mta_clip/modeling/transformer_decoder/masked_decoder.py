"""Mask2Former's transformer decoder (arXiv 2112.01527, section 3.2): queries attend only inside their own masks.

Shapes: B images, Q mask queries, N all queries (here N = Q), C classes, K = C + 1 (last = no object), D decoder width,
Dm mask embedding width, L memory levels, S tokens of one level, A attention heads, c channels of a memory, h and w = a
quarter of the padded input, h_l and w_l = memory level l.
"""

from functools import partial

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..ops import mask_bias
from ..outputs import HeadOutput, LayerPrediction
from ..pixel_decoder.position_encoding import PositionEmbeddingSine
from .layers import MLP, MaskedDecoderLayer
from .registry import TRANSFORMER_DECODERS


@TRANSFORMER_DECODERS.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Layer i attends to memory level i mod L, each query only where its current mask probability is at least 0.5.

    Predictions are made from the queries before the first layer and after each layer. Training returns all of them,
    evaluation only the last: of the others it needs just the mask embeddings, for the attention masks.

    Args:
        in_channels: c.
        hidden_dim: D.
        mask_dim: Dm.
        num_queries: Q.
        num_classes: C.
        num_heads: A.
        num_levels: L.
        feedforward_dim: hidden width of the feed-forward networks.
        num_layers: number of decoder layers.
        enforce_input_proj: projects the memories by a 1x1 convolution even if c = D.
        checkpointing: computes the activations of the layers again in the backward pass instead of keeping them.

    Raises:
        ValueError: D is not a multiple of A; see also PositionEmbeddingSine.
    """

    takes_text = False

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 256,
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_classes: int,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_layers: int = 9,
        mask_dim: int = 256,
        num_levels: int = 3,
        enforce_input_proj: bool = False,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.checkpointing = checkpointing
        self.num_queries = num_queries
        self.layers = nn.ModuleList(
            MaskedDecoderLayer(embed_dim=hidden_dim, num_heads=num_heads, feedforward_dim=feedforward_dim)
            for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        self.position_embedding = PositionEmbeddingSine(num_feats=hidden_dim // 2)
        self.input_proj = nn.ModuleList(nn.Identity() for _ in range(num_levels))
        if enforce_input_proj or in_channels != hidden_dim:
            self.input_proj = nn.ModuleList(nn.Conv2d(in_channels, hidden_dim, 1) for _ in range(num_levels))
            for projection in self.input_proj:
                nn.init.kaiming_uniform_(projection.weight, a=1)
                nn.init.zeros_(projection.bias)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.class_rows = {"class_embed.weight": (0, 1), "class_embed.bias": (0, 1)}  # see checkpoint/class_rows.py
        self.mask_embed = MLP(input_dim=hidden_dim, hidden_dim=hidden_dim, output_dim=mask_dim, num_layers=3)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, in_channels: int, mask_dim: int) -> dict:
        """Constructor arguments from a config."""
        node = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "hidden_dim": node.HIDDEN_DIM,
            "num_queries": node.NUM_OBJECT_QUERIES,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_heads": node.NHEADS,
            "feedforward_dim": node.DIM_FEEDFORWARD,
            "num_layers": node.DEC_LAYERS - 1,
            "mask_dim": mask_dim,
            "num_levels": len(cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
            "enforce_input_proj": node.ENFORCE_INPUT_PROJ,
            "checkpointing": cfg.MODEL.SEM_SEG_HEAD.CHECKPOINTING,
        }

    def forward(self, memories: list[Tensor], mask_features: Tensor, text: Tensor | None = None) -> HeadOutput:
        """Predicts masks from memories and mask features.

        Args:
            memories: L maps (B, c, h_l, w_l), coarsest first.
            mask_features: (B, Dm, h, w).
            text: text features for a subclass that uses them; None here.

        Raises:
            ValueError: the number of memories is not L, or the decoder does not accept the text.
        """
        if len(memories) != len(self.input_proj):
            raise ValueError(
                f"the decoder has {len(self.input_proj)} levels, but got {len(memories)} memories: one per map in "
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES is expected"
            )
        keys, values = zip(*(self._flatten(level, memory) for level, memory in enumerate(memories)), strict=True)
        small_features = self._resize(mask_features, memories)
        queries = self.initial_queries(text, mask_features.shape[0])
        refine = self._refine
        if self.checkpointing and self.training:
            refine = partial(checkpoint, self._refine, use_reentrant=False)
        predictions = []
        for i, layer in enumerate(self.layers):
            normed = self.decoder_norm(queries)
            mask_embed = self.mask_embed(normed[:, : self.num_queries])
            if self.training:
                predictions.append(self.predict(normed, mask_embed, text))
            level = i % len(memories)
            queries = refine(layer, queries, normed, mask_embed, small_features[level], keys[level], values[level])
        normed = self.decoder_norm(queries)
        predictions.append(self.predict(normed, self.mask_embed(normed[:, : self.num_queries]), text))
        return HeadOutput(mask_features=mask_features, layers=predictions)

    def initial_queries(self, text: Tensor | None, batch_size: int) -> Tensor:
        """The queries before the first layer, (B, N, D); mask queries come first.

        Raises:
            ValueError: text is given, which this decoder cannot use.
        """
        if text is not None:
            raise ValueError(
                f"{type(self).__name__} takes no text; use MaskTextDecoder, or set MODEL.PROMPT.NAME to ''"
            )
        return self.query_feat.weight.expand(batch_size, -1, -1)

    def predict(self, normed: Tensor, mask_embed: Tensor, text: Tensor | None) -> LayerPrediction:
        """Makes predictions from normed queries (B, N, D) and the mask embeddings (B, Q, Dm) of the mask queries."""
        return LayerPrediction(class_logits=self.class_embed(normed[:, : self.num_queries]), mask_embed=mask_embed)

    def _refine(
        self,
        layer: nn.Module,
        queries: Tensor,
        normed: Tensor,
        mask_embed: Tensor,
        small_features: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """The queries (B, N, D) after a layer, in which they attend inside their masks."""
        bias = self._attention_bias(normed, mask_embed, small_features)
        return layer(queries, self.query_embed.weight, keys, values, bias)

    def _flatten(self, level: int, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (with position encoding) and values of a memory level, both (B, S, D)."""
        tokens = self.input_proj[level](memory).flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        position = self.position_embedding((memory.shape[-2], memory.shape[-1]), memory.device)
        # The embeddings are float32; without this cast, layers in lower precision would cast the sums at every use.
        return (tokens + position.flatten(0, 1)).to(memory.dtype), tokens.to(memory.dtype)

    @torch.no_grad()
    def _resize(self, mask_features: Tensor, memories: list[Tensor]) -> list[Tensor]:
        """Mask features at the sizes of the memories, (B, Dm, S) each.

        Resizing and the dot product with a mask embedding are both linear, so masks of resized features equal resized
        masks. Attention then needs no mask at full size, and each level is resized once for all layers.
        """
        sizes = [memory.shape[-2:] for memory in memories]
        resized = [F.interpolate(mask_features, size=size, mode="bilinear", align_corners=False) for size in sizes]
        return [x.flatten(2).contiguous() for x in resized]

    @torch.no_grad()
    def _attention_bias(self, normed: Tensor, mask_embed: Tensor, small_features: Tensor) -> Tensor:
        """The bias of masked attention, (B, N, S): 0 inside the mask of a query, -inf outside."""
        if normed.shape[1] > self.num_queries:
            mask_embed = torch.cat([mask_embed, self.mask_embed(normed[:, self.num_queries :])], dim=1)
        return mask_bias(mask_embed @ small_features)
