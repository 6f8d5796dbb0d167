"""Mask2Former's pixel decoder: a deformable transformer encoder over three scales, then one FPN step to stride 4.

Source: Mask2Former (arXiv 2112.01527), section 3.2.2 and its released configuration.

Shapes: B images, D decoder width, Dm mask embedding width, S tokens of all encoder levels, c channels of an encoder
map, h and w = the finest encoder map, h_l and w_l = encoder map l.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .deformable_attention import MSDeformAttn
from .position_encoding import PositionEmbeddingSine
from .registry import PIXEL_DECODERS


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network; each has a residual, then a LayerNorm.

    Args:
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward network.
        dropout: probability, in [0, 1].
        attention: further arguments of MSDeformAttn.

    Raises:
        ValueError: see MSDeformAttn.
    """

    def __init__(self, *, embed_dim: int, feedforward_dim: int, dropout: float = 0.0, **attention: Any):
        super().__init__()
        self.self_attn = MSDeformAttn(embed_dim=embed_dim, **attention)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, tokens: Tensor, position: Tensor, reference: tuple[Tensor, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Refines tokens (B, S, D); only queries get the `position` (S, D). For the rest see `MSDeformAttn.forward`."""
        attended = self.self_attn(tokens + position, tokens, reference, sizes)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(tokens), inplace=True)))
        return self.norm2(tokens + self.dropout(hidden))


class ConvNorm(nn.Module):
    """A convolution that keeps the map size, followed by a norm.

    Args:
        in_channels: of the convolution.
        out_channels: of the convolution.
        kernel_size: of the convolution, odd.
        norm: "GN" for GroupNorm, "" for none, or another name of detectron2's `get_norm`.
        norm_groups: groups of GroupNorm.
        bias: whether the convolution has a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, norm: str, norm_groups: int, bias: bool
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        layer = nn.GroupNorm(norm_groups, out_channels) if norm == "GN" else get_norm(norm, out_channels)
        self.norm = layer or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, h_l, w_l) from (B, in_channels, h_l, w_l)."""
        return self.norm(self.conv(x))


@PIXEL_DECODERS.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Refines the coarse maps together, then merges the finer ones, up to a quarter of the input size.

    Args:
        input_shape: channels and strides of the encoder maps, by name.
        transformer_in_features: names of the maps that the transformer encoder refines; all others in `input_shape` are
            merged afterwards, as in an FPN.
        conv_dim: D.
        mask_dim: Dm.
        num_layers: of the transformer encoder.
        num_heads: A.
        num_points: P.
        feedforward_dim: width between the two layers of its MLPs.
        dropout: probability in its layers.
        norm: norm of the FPN step; see ConvNorm.
        norm_groups: groups of every GroupNorm.
        sampling: form of the deformable sampling, see MSDeformAttn.
        checkpointing: computes the activations of the transformer encoder's layers again in the backward pass, instead
            of keeping them.
        full_precision: runs everything in float32, even inside autocast, as Mask2Former does. Otherwise linear layers
            and convolutions follow autocast, and only the deformable sampling stays in float32.

    Raises:
        ValueError: `transformer_in_features` names a map that is not in `input_shape`, or all maps; see also
            MSDeformAttn.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        transformer_in_features: Sequence[str] = ("res3", "res4", "res5"),
        conv_dim: int = 256,
        mask_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
        norm: str = "GN",
        norm_groups: int = 32,
        sampling: str = "auto",
        checkpointing: bool = False,
        full_precision: bool = True,
    ):
        super().__init__()
        missing = set(transformer_in_features) - set(input_shape)
        if missing or set(transformer_in_features) == set(input_shape):
            raise ValueError(
                f"the transformer reads {list(transformer_in_features)}, which must be some, but not all, of the "
                f"encoder maps {list(input_shape)}; change "
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES or IN_FEATURES"
            )
        self.conv_dim = conv_dim
        self.mask_dim = mask_dim
        self.checkpointing = checkpointing
        self.full_precision = full_precision
        coarse_first = sorted(input_shape, key=lambda name: -input_shape[name].stride)
        self.transformer_in_features = [name for name in coarse_first if name in transformer_in_features]
        self.fpn_in_features = [name for name in coarse_first if name not in transformer_in_features]
        channels = {name: shape.channels for name, shape in input_shape.items()}
        num_levels = len(self.transformer_in_features)

        self.input_proj = nn.ModuleList(
            ConvNorm(channels[name], conv_dim, kernel_size=1, norm="GN", norm_groups=norm_groups, bias=True)
            for name in self.transformer_in_features
        )
        self.position_embedding = PositionEmbeddingSine(num_feats=conv_dim // 2)
        self.level_embed = nn.Parameter(torch.empty(num_levels, conv_dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                embed_dim=conv_dim,
                feedforward_dim=feedforward_dim,
                num_heads=num_heads,
                num_levels=num_levels,
                num_points=num_points,
                sampling=sampling,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        fpn: dict[str, Any] = {"norm": norm, "norm_groups": norm_groups, "bias": norm == ""}
        self.lateral_convs = nn.ModuleList(
            ConvNorm(channels[name], conv_dim, kernel_size=1, **fpn) for name in self.fpn_in_features
        )
        self.output_convs = nn.ModuleList(
            ConvNorm(conv_dim, conv_dim, kernel_size=3, **fpn) for _ in self.fpn_in_features
        )
        self.mask_features = nn.Conv2d(conv_dim, mask_dim, kernel_size=1)
        self._init_parameters()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Constructor arguments from a config."""
        node = cfg.MODEL.SEM_SEG_HEAD
        if unknown := [name for name in node.IN_FEATURES if name not in input_shape]:
            raise ValueError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {unknown}; the image encoder has {[*input_shape]}")
        return {
            "input_shape": {name: input_shape[name] for name in node.IN_FEATURES},
            "transformer_in_features": node.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "conv_dim": node.CONVS_DIM,
            "mask_dim": node.MASK_DIM,
            "num_layers": node.TRANSFORMER_ENC_LAYERS,
            "num_heads": node.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
            "num_points": node.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "feedforward_dim": node.TRANSFORMER_ENC_DIM_FEEDFORWARD,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "norm": node.NORM,
            "norm_groups": node.NORM_GROUPS,
            "sampling": node.SAMPLING,
            "checkpointing": node.CHECKPOINTING,
            "full_precision": node.PIXEL_DECODER_FULL_PRECISION,
        }

    def _init_parameters(self) -> None:
        nn.init.normal_(self.level_embed)
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection.conv.weight)
            nn.init.zeros_(projection.conv.bias)
        fpn_convs = [module.conv for module in (*self.lateral_convs, *self.output_convs)]
        for conv in (*fpn_convs, self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes encoder maps (B, c, h_l, w_l), by name; their sizes need not be multiples of each other.

        Returns:
            Mask features (B, Dm, h, w), and the maps that the transformer refined, (B, D, h_l, w_l), coarsest first.
        """
        features = {name: features[name] for name in (*self.transformer_in_features, *self.fpn_in_features)}
        if not self.full_precision:
            return self._decode(features)
        device_type = next(iter(features.values())).device.type
        with torch.autocast(device_type, enabled=False):
            return self._decode({name: x.float() for name, x in features.items()})

    def _decode(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        # Tokens have channels last in memory; with the same layout for maps, no conversion is needed in between.
        features = {name: x.contiguous(memory_format=torch.channels_last) for name, x in features.items()}
        memories = self._encode([features[name] for name in self.transformer_in_features])
        x = memories[-1]
        for name, lateral, output in zip(self.fpn_in_features, self.lateral_convs, self.output_convs, strict=True):
            skip = features[name]
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = F.relu(output(lateral(skip).add_(x)), inplace=True)
        return self.mask_features(x), memories

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Runs the transformer encoder: maps (B, c, h_l, w_l) -> maps (B, D, h_l, w_l)."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        levels = [proj(x).flatten(2).transpose(1, 2) for proj, x in zip(self.input_proj, maps, strict=True)]
        tokens = torch.cat(levels, dim=1)
        position = torch.cat(
            [
                self.position_embedding(size, tokens.device).flatten(0, 1) + level
                for size, level in zip(sizes, self.level_embed, strict=True)
            ]
        )
        # The reference depends only on the sizes, so all layers share it.
        reference = self.layers[0].self_attn.reference_pixels(sizes, tokens.device) if len(self.layers) else None
        position = position.to(tokens.dtype)
        for layer in self.layers:
            if self.checkpointing and self.training:
                tokens = checkpoint(layer, tokens, position, reference, sizes, use_reentrant=False)
            else:
                tokens = layer(tokens, position, reference, sizes)
        encoded = tokens.split([math.prod(size) for size in sizes], dim=1)
        return [x.unflatten(1, size).permute(0, 3, 1, 2) for x, size in zip(encoded, sizes, strict=True)]
