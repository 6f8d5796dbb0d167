"""CLIP's embedding of what is under a mask: its own pooling and projection, but over the cells of the mask only.

A mask over the whole image gives what CLIP gives for the image. Cells outside a mask still count as context, since they
are in the receptive field of those inside.

Shapes: B images, H and W = padded input, Q masks, h and w = a map of mask logits, S cells of the tower's last map, c
its channels, Dt text width, A attention heads, d channels per head.
"""

import math

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from .image_towers.vit import embed_patches, resize_positions


class MaskPooler(nn.Module):
    """Base class: embeds what is under masks.

    Args:
        visual: image tower with its pooling and projection.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        """Embeddings (B, Q, Dt), not normalised, from images (B, 3, H, W) as CLIP normalises them.

        Args:
            mask_logits: (B, Q, h, w); a mask is where they are above 0.
        """
        raise NotImplementedError


class AttentionMaskPooler(MaskPooler):
    """CLIP's ResNets: the attention pool reads the cells under the mask and their mean, which is its query.

    F-VLM (ICLR 2023) does so with boxes; FC-CLIP's query is the mean of all cells.
    """

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        """See MaskPooler."""
        visual, pool = self.visual, self.visual.attnpool
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        covered = covered_cells(mask_logits, maps.shape[-2:])  # (B, Q, S)
        cells = maps.flatten(2).transpose(1, 2)  # (B, S, c)
        side = math.isqrt(len(pool.positional_embedding) - 1)
        positions = resize_positions(pool.positional_embedding, (side, side), maps.shape[-2:])
        means, cells = _means(cells, covered) + positions[0], cells + positions[1:]
        # (B, A, Q or S, d)
        query, own_key, own_value = (self._heads(proj(means)) for proj in (pool.q_proj, pool.k_proj, pool.v_proj))
        key, value = self._heads(pool.k_proj(cells)), self._heads(pool.v_proj(cells))
        own = (query * own_key).sum(-1, keepdim=True)
        others = (query @ key.transpose(-1, -2)).masked_fill(~covered[:, None], -math.inf)
        weights = (torch.cat([own, others], dim=-1) / math.sqrt(query.shape[-1])).softmax(-1)
        attended = weights[..., :1] * own_value + weights[..., 1:] @ value
        return pool.c_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(2, (self.visual.attnpool.num_heads, -1)).transpose(1, 2)


class TokenMaskPooler(MaskPooler):
    """CLIP's ViTs: in the last block each mask has a class token of its own, which attends to the patches under it.

    Patch tokens are not trained to be in CLIP's joint space, so their mean would not be comparable with text.
    """

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        """See MaskPooler. Images whose sides are no multiples of the patch size are resized to the nearest ones."""
        visual, patch = self.visual, self.visual.conv1.kernel_size
        size = [max(round(a / b), 1) * b for a, b in zip(images.shape[-2:], patch, strict=True)]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        tokens, grid = embed_patches(visual, images)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        covered = covered_cells(mask_logits, grid)
        hidden = F.pad(~covered, (1, 0), value=False)  # the class token always sees itself
        normed, count = last.ln_1(tokens), mask_logits.shape[1]
        attended, _ = last.attn(
            normed[:, :1].expand(-1, count, -1),
            normed,
            normed,
            need_weights=False,
            attn_mask=hidden.repeat_interleave(last.attn.num_heads, dim=0),
        )
        pooled = tokens[:, :1] + last.ls_1(attended)
        pooled = pooled + last.ls_2(last.mlp(last.ln_2(pooled)))
        return visual.ln_post(pooled) @ visual.proj


class MeanMaskPooler(MaskPooler):
    """ConvNeXts: the mean of the cells under the mask goes through norm and projection, as in FC-CLIP."""

    def forward(self, images: Tensor, mask_logits: Tensor) -> Tensor:
        """See MaskPooler."""
        maps = self.visual.trunk.forward_features(images)  # (B, c, ...)
        means = _means(maps.flatten(2).transpose(1, 2), covered_cells(mask_logits, maps.shape[-2:]))
        pooled = self.visual.trunk.forward_head(means.flatten(0, 1)[..., None, None])
        return self.visual.head(pooled).unflatten(0, means.shape[:2])


def build_mask_pooler(visual: nn.Module) -> MaskPooler:
    """The pooler for an open_clip image tower.

    Raises:
        ValueError: there is none for towers of this kind.
    """
    if isinstance(visual, ModifiedResNet):
        return AttentionMaskPooler(visual)
    trunk = getattr(visual, "trunk", visual)
    if isinstance(visual, VisionTransformer):
        plain = all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
        if plain and visual.pool_type == "tok" and visual.attn_pool is None and not visual.final_ln_after_pool:
            return TokenMaskPooler(visual)
    convnext = isinstance(visual, TimmModel) and isinstance(trunk, timm.models.ConvNeXt)
    if convnext and getattr(trunk.head.global_pool, "pool_type", None) == "avg":
        return MeanMaskPooler(visual)
    raise ValueError(
        f"MODEL.MTA.FROZEN_CLIP: no way is known to pool a {type(trunk).__name__} of this kind under masks. It works "
        "with CLIP's ResNets (attention pool), ConvNeXts (mean) and open_clip's ViTs read at their class token. Set "
        "ENABLED False, or another MODEL.CLIP.NAME"
    )


def covered_cells(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells (B, Q, S) bool of a map of `size` that masks (B, Q, h, w) cover; at least the most likely one of each."""
    logits = F.interpolate(mask_logits.float(), size=size, mode="area").flatten(2)
    return (logits > 0) | (logits == logits.amax(-1, keepdim=True))


def _means(cells: Tensor, covered: Tensor) -> Tensor:
    """Means (B, Q, c) of the covered cells, from cells (B, S, c)."""
    return covered.to(cells.dtype) @ cells / covered.sum(-1, keepdim=True)
