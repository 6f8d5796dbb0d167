"""The MTA-CLIP training step written plainly, with the parameters of our model; tools/benchmark.py compares with it.

Nothing is shared, factored or fused: deformable attention uses `grid_sample` (one call per level); mask logits of all
queries are computed at full resolution after every layer, and attention masks, matching and losses are made from them;
every prompt runs through the text tower in full. Only the image encoder is the model's own. With the same random
points, losses and gradients equal those of the package.

Shapes: B images, S pixels of all levels, A heads, d channels per head, L levels, P points, N queries, Q mask queries,
K classes with no object last, Z contexts, M target masks, D decoder width, h and w a quarter of the padded input.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from mta_clip.modeling.criterion import Target, targets_from_sem_seg
from mta_clip.modeling.criterion.mask_losses import PointMaskLoss
from mta_clip.modeling.meta_arch import MTACLIP
from mta_clip.modeling.pixel_decoder import MSDeformAttn, MSDeformAttnPixelDecoder
from mta_clip.modeling.pixel_decoder.deformable_attention import reference_points
from mta_clip.modeling.text import PromptLearner
from mta_clip.modeling.transformer_decoder import MaskTextDecoder


def plain_losses(model: MTACLIP, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The losses that `model.losses` returns, for a model with learned contexts and the default losses."""
    targets = targets_from_sem_seg(list(labels), images.shape[-2:], model.ignore_label, device=images.device)
    text = prompt_features(model.prompt_learner)
    head = model.sem_seg_head
    mask_features, memories = pixel_decoder(head.pixel_decoder, model.backbone(images))
    predictions = decoder(head.transformer_decoder, memories, mask_features, text)
    losses = {}
    points = draw_points(model, targets)
    for index, prediction in enumerate(predictions):
        suffix = "" if index == len(predictions) - 1 else f"_{index}"
        for name, value in layer_losses(model, prediction, targets, points).items():
            losses[name + suffix] = value
    return losses


def prompt_features(learner: PromptLearner) -> Tensor:
    """Text features (Z, K, Dt): every class in every context as a full sequence."""
    tower, tokens = learner.text_encoder.tower, learner.tokens.to(learner.contexts.device)
    features = []
    for context in learner.contexts:
        embedded = tower.token_embedding(tokens)
        sequence = torch.cat([embedded[:, :1], context.expand(len(tokens), -1, -1), embedded[:, 1:]], dim=1)
        length = sequence.shape[1]
        causal = torch.full((length, length), -torch.inf, device=tokens.device).triu(1)
        hidden = tower.ln_final(tower.transformer(sequence + tower.positional_embedding[:length], attn_mask=causal))
        end = tokens.argmax(dim=1) + len(context)
        features.append(hidden[torch.arange(len(tokens), device=tokens.device), end] @ tower.text_projection)
    return torch.stack(features)


def deformable_attention(module: MSDeformAttn, query: Tensor, tokens: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Every level sampled by `grid_sample`, all samples kept, then weighed and summed: (B, S, D)."""
    batch, count, width = query.shape
    heads, levels, points = module.num_heads, module.num_levels, module.num_points
    value = module.value_proj(tokens).view(batch, -1, heads, width // heads)
    offsets = module.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
    weights = module.attention_weights(query).view(batch, count, heads, levels * points).softmax(-1)
    scale = query.new_tensor([(w, h) for h, w in sizes])[:, None]
    locations = reference_points(sizes, query.device)[:, None, None, None] + offsets / scale
    sampled = []
    for level, pixels in enumerate(value.split([h * w for h, w in sizes], dim=1)):
        maps = pixels.permute(0, 2, 3, 1).reshape(batch * heads, width // heads, *sizes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    sampled = torch.stack(sampled, dim=-2).flatten(-2)  # (B * A, d, S, L * P)
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, count, levels * points)
    attended = (sampled * weights).sum(-1).view(batch, width, count)
    return module.output_proj(attended.transpose(1, 2))


def pixel_decoder(module: MSDeformAttnPixelDecoder, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Mask features (B, Dm, h, w) and memories (B, D, h_l, w_l), coarsest first."""
    maps = [proj(features[n]) for n, proj in zip(module.transformer_in_features, module.input_proj, strict=True)]
    sizes = [tuple(x.shape[-2:]) for x in maps]
    tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
    codes = [module.position_embedding(size, tokens.device).flatten(0, 1) for size in sizes]
    position = torch.cat([code + level for code, level in zip(codes, module.level_embed, strict=True)])
    for layer in module.layers:
        tokens = layer.norm1(tokens + deformable_attention(layer.self_attn, tokens + position, tokens, sizes))
        tokens = layer.norm2(tokens + layer.linear2(layer.linear1(tokens).relu()))
    levels = tokens.split([h * w for h, w in sizes], dim=1)
    memories = [x.transpose(1, 2).unflatten(2, size) for x, size in zip(levels, sizes, strict=True)]
    x = memories[-1]
    for name, lateral, output in zip(module.fpn_in_features, module.lateral_convs, module.output_convs, strict=True):
        skip = lateral(features[name])
        x = output(skip + F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)).relu()
    return module.mask_features(x), memories


def decoder(
    module: MaskTextDecoder, memories: list[Tensor], mask_features: Tensor, text: Tensor
) -> list[dict[str, Tensor]]:
    """Per supervised prediction: class_logits (B, Q, K), masks (B, N, h, w) and similarity (Z, B, Q, K)."""
    sizes = [tuple(memory.shape[-2:]) for memory in memories]
    tokens = [
        (proj(memory).flatten(2) + level[:, None]).permute(2, 0, 1)  # sequence first, as nn.MultiheadAttention has it
        for proj, memory, level in zip(module.input_proj, memories, module.level_embed.weight, strict=True)
    ]
    codes = [module.position_embedding(size, mask_features.device).flatten(0, 1)[:, None] for size in sizes]
    queries = torch.cat([module.query_feat.weight, module.text_proj(text.flatten(0, 1))])
    queries = module.query_norm(queries)[:, None].expand(-1, len(mask_features), -1)
    position = module.query_embed.weight[:, None]
    predictions = [predict(module, queries, mask_features, text)]
    for index, layer in enumerate(module.layers):
        level = index % len(memories)
        hidden = attention_mask(predictions[-1]["masks"], sizes[level], layer.cross_attn.num_heads)
        keys = tokens[level] + codes[level]
        attended = attention(layer.cross_attn, queries + position, keys, tokens[level], hidden)
        queries = layer.cross_attn_norm(queries + attended)
        attended = attention(layer.self_attn, queries + position, queries + position, queries)
        queries = layer.self_attn_norm(queries + attended)
        queries = layer.ffn_norm(queries + layer.linear2(layer.linear1(queries).relu()))
        predictions.append(predict(module, queries, mask_features, text))
    return predictions


def predict(module: MaskTextDecoder, queries: Tensor, mask_features: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Class logits, similarity to the updated text, and full-resolution masks of all queries (N, B, D)."""
    normed = module.decoder_norm(queries).transpose(0, 1)
    mask_queries, text_queries = normed.split([module.num_queries, normed.shape[1] - module.num_queries], dim=1)
    update = module.text_update_norm(module.text_update(text_queries)).unflatten(1, text.shape[:2]).transpose(0, 1)
    aligned = F.normalize(module.mask_align(mask_queries), dim=-1)
    updated = F.normalize(text[:, None] + module.gamma * update, dim=-1)
    return {
        "class_logits": module.class_embed(mask_queries),
        "masks": torch.einsum("bnd,bdhw->bnhw", module.mask_embed(normed), mask_features),
        "similarity": torch.einsum("bqd,zbkd->zbqk", aligned, updated),
    }


def attention_mask(masks: Tensor, size: tuple[int, int], heads: int) -> Tensor:
    """Where queries may not look, (B * A, N, S) bool: full masks resized; empty ones hide nothing."""
    resized = F.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False)
    hidden = (resized.sigmoid().flatten(2) < 0.5).repeat_interleave(heads, dim=0)
    hidden[hidden.all(-1)] = False
    return hidden


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None = None) -> Tensor:
    """What `nn.MultiheadAttention` does by default: scores of all heads are made, and averaged for the caller."""
    return F.multi_head_attention_forward(
        query, key, value, query.shape[-1], module.num_heads, module.in_proj_weight, module.in_proj_bias,
        None, None, False, 0.0, module.out_proj.weight, module.out_proj.bias, attn_mask=hidden,
    )[0]  # fmt: skip


Points = dict[str, Tensor]


def draw_points(model: MTACLIP, targets: list[Target]) -> list[Points]:
    """Random points per image, used for all layers: of the matching (1, P, 2) and of the losses (M, ..., 2).

    Drawn in the order of the package, so that the same seed gives the same points.
    """
    loss = model.criterion.mask_loss
    num_fresh = loss.num_points - int(loss.importance_sample_ratio * loss.num_points)
    points = [{"matching": torch.rand(1, loss.num_points, 2, device=model.device)} for _ in targets]
    for drawn, target in zip(points, targets, strict=True):
        num_masks = len(target["labels"])
        num_candidates = int(loss.num_points * loss.oversample_ratio)
        drawn["candidates"] = torch.rand(num_masks, num_candidates, 2, device=model.device)
        drawn["fresh"] = torch.rand(num_masks, num_fresh, 2, device=model.device)
    return points


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values (N, P) of maps (N, h, w) at points (N, P, 2) in [0, 1]."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def match(model: MTACLIP, logits: Tensor, masks: Tensor, target: Target, points: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and targets matched for one image, from full masks (Q, h, w)."""
    criterion = model.criterion
    x = sample(masks, points.expand(len(masks), -1, -1))
    t = sample(target["masks"].float(), points.expand(len(target["labels"]), -1, -1))
    positive, negative = F.softplus(-x), F.softplus(x)
    mask_cost = (positive @ t.t() + negative @ (1 - t).t()) / x.shape[1]
    dice_cost = 1 - (2 * x.sigmoid() @ t.t() + 1) / (x.sigmoid().sum(1)[:, None] + t.sum(1) + 1)
    class_cost = -logits.softmax(-1)[:, target["labels"]]
    cost = criterion.class_weight * class_cost + criterion.mask_weight * mask_cost + criterion.dice_weight * dice_cost
    rows, columns = linear_sum_assignment(cost.cpu())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def layer_losses(
    model: MTACLIP, prediction: dict[str, Tensor], targets: list[Target], points: list[Points]
) -> dict[str, Tensor]:
    """Weighted losses of one prediction."""
    criterion = model.criterion
    logits, masks = prediction["class_logits"], prediction["masks"][:, : prediction["class_logits"].shape[1]]
    labels = torch.full(logits.shape[:2], criterion.num_classes, device=logits.device)
    mask_loss = dice_loss = masks[:, :, :0, :0].sum()
    for image, target in enumerate(targets):
        rows, columns = match(model, logits[image], masks[image], target, points[image]["matching"])
        labels[image, rows] = target["labels"][columns].to(labels.device)
        chosen = masks[image, rows]
        sampled = least_certain(chosen, points[image]["candidates"][columns], criterion.mask_loss)
        sampled = torch.cat([sampled, points[image]["fresh"][columns]], dim=1)
        cross_entropy, dice = mask_losses(chosen, target["masks"][columns].float(), sampled)
        mask_loss, dice_loss = mask_loss + cross_entropy, dice_loss + dice
    weights = criterion.empty_weight[labels]
    class_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), criterion.empty_weight)
    similarity = criterion.similarity_loss(prediction["similarity"], labels, model.prompt_learner.temperature)
    num_masks = max(sum(len(target["labels"]) for target in targets), 1)
    return {
        "loss_ce": criterion.class_weight * class_loss,
        "loss_mask": criterion.mask_weight * mask_loss / num_masks,
        "loss_dice": criterion.dice_weight * dice_loss / num_masks,
        "loss_sim": criterion.similarity_weight * (similarity * weights).sum() / weights.sum(),
    }


@torch.no_grad()
def least_certain(masks: Tensor, candidates: Tensor, loss: PointMaskLoss) -> Tensor:
    """The candidates at which masks (M, h, w) are closest to 0."""
    scores = -sample(masks, candidates).abs()
    indices = scores.topk(int(loss.importance_sample_ratio * loss.num_points), dim=1).indices
    return candidates.gather(1, indices[:, :, None].expand(-1, -1, 2))


def mask_losses(masks: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice at points (M, P, 2), summed over matched masks (M, h, w)."""
    x, t = sample(masks, points), sample(targets, points)
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1).sum()
    s = x.sigmoid()
    dice = 1 - (2 * (s * t).sum(1) + 1) / (s.sum(1) + t.sum(1) + 1)
    return cross_entropy, dice.sum()
