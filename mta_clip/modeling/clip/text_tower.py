"""CLIP's causal text transformer, run with a shared prefix.

Shapes: Z contexts, n vectors per context, K rows of text, T tokens of the longest text (start token, end token and
padding included), U text tokens without padding and start tokens, summed over all Z * K texts, E token width, A
attention heads, d channels per head, Dt width of text features.

A prefix is the start token and the n vectors of a context. Under a causal mask, its activations do not depend on the
tokens that follow. Each prefix is therefore run once, and each of the Z * K texts runs only its own T - 1 tokens, which
attend to the keys and values of the prefix: with 8 context vectors and names of up to three tokens, 4 of 13 positions
are computed per text. Nothing depends on the padding after an end token either, so texts are padded for attention only,
because it needs tensors of one length.
"""

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class CausalTextTower(nn.Module):
    """Text tower with the weights and parameter names of an open_clip `CLIP` or `TextTransformer`.

    Args:
        source: module with `token_embedding`, `positional_embedding`, `transformer`, `ln_final`, `text_projection`
            and `attn_mask`; its parameters are shared, not copied.
        checkpointing: recomputes blocks in the backward pass, so that only their inputs are stored.

    Attributes:
        context_length: upper limit of T + n.
        width, text_dim: E, Dt.

    Raises:
        ValueError: `source` is not such a module, has no causal mask, does not read out at the end token, or has
            attention blocks that are not CLIP's.
    """

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__()
        self.checkpointing = checkpointing
        _check_supported(source)
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = projection = source.text_projection
        self.context_length, self.width = self.positional_embedding.shape
        if projection is None:
            self.text_dim = self.width
        else:
            self.text_dim = projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Text features (Z, K, Dt), read out at the end token (as in CoOp and DenseCLIP); not normalised.

        Args:
            tokens: (K, T) int64: start token, text, end token (the largest id of each row), padding.
            contexts: (Z, n, E) vectors in the space of token embeddings, inserted between the start token and the text;
                None = no vectors and Z = 1.

        Raises:
            ValueError: T + n is larger than `context_length`.
        """
        start, following = tokens[:1, :1], tokens[:, 1:]
        prefix = self.token_embedding(start)  # all texts begin with the same token
        if contexts is not None:
            prefix = torch.cat([prefix.expand(len(contexts), -1, -1), contexts.to(prefix.dtype)], dim=1)
        length = prefix.shape[1] + following.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens, but the text tower has only {self.context_length} positions; shorten the texts"
            )
        prefix_positions, positions = self.positional_embedding[:length].split([prefix.shape[1], following.shape[1]])
        prefix = prefix + prefix_positions
        lengths = following.argmax(dim=1) + 1
        is_text = torch.arange(following.shape[1], device=tokens.device) < lengths[:, None]
        places = is_text.repeat(len(prefix), 1).flatten().nonzero().squeeze(1)  # contexts outermost
        texts = (self.token_embedding(following) + positions).repeat(len(prefix), 1, 1).flatten(0, 1)[places]
        # A text token sees the whole prefix and the text up to itself.
        visible = torch.ones(following.shape[1], length, dtype=torch.bool, device=tokens.device).tril(prefix.shape[1])
        for block in self.transformer.resblocks:
            arguments = (block, prefix, texts, places, len(tokens), visible)
            if self.checkpointing and torch.is_grad_enabled():
                prefix, texts = checkpoint(_run_block, *arguments, use_reentrant=False)
            else:
                prefix, texts = _run_block(*arguments)
        ends = lengths.repeat(len(prefix)).cumsum(0) - 1
        return self._project(self.ln_final(texts[ends])).unflatten(0, (len(prefix), len(tokens)))

    def _project(self, features: Tensor) -> Tensor:
        if self.text_projection is None:
            return features
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(features)
        return features @ self.text_projection


def _run_block(
    block: ResidualAttentionBlock, prefix: Tensor, texts: Tensor, places: Tensor, per_prefix: int, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs prefixes (Z, 1 + n, E) and texts (U, E) through one block.

    Args:
        places: (U,) int64, indices of the text tokens among the Z * K * (T - 1) tokens of padded texts.
        per_prefix: K.
        visible: (T - 1, n + T) bool, True where a token of a text attends to a token of the prefix or the text.
    """
    text_length = len(visible)
    prefix_query, *prefix_memory = _split_heads(block, _project_input(block, prefix))
    projected = _project_input(block, texts)
    padded = projected.new_zeros(len(prefix) * per_prefix * text_length, projected.shape[-1])
    padded = padded.index_copy(0, places, projected)
    query, *own_memory = _split_heads(block, padded.unflatten(0, (-1, text_length)))
    key, value = (
        torch.cat([shared.repeat_interleave(per_prefix, dim=0), own], dim=2)
        for shared, own in zip(prefix_memory, own_memory, strict=True)
    )
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    texts = _finish_block(block, texts, _join_heads(attended).flatten(0, 1)[places])
    attended = F.scaled_dot_product_attention(prefix_query, *prefix_memory, is_causal=True)
    return _finish_block(block, prefix, _join_heads(attended)), texts


def _project_input(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Queries, keys and values of the block's attention side by side, (..., 3 * E), from tokens (..., E)."""
    return F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)


def _split_heads(block: ResidualAttentionBlock, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (sequences, A, tokens, d), from (sequences, tokens, 3 * E)."""
    query, key, value = projected.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _join_heads(attended: Tensor) -> Tensor:
    """(sequences, tokens, E) from (sequences, A, tokens, d)."""
    return attended.transpose(1, 2).flatten(2)


def _finish_block(block: ResidualAttentionBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """The part of a pre-norm block after its attention: output projection, residuals and MLP, all (..., E)."""
    tokens = tokens + block.ls_1(block.attn.out_proj(attended))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def _check_supported(source: nn.Module) -> None:
    wanted = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    if all(hasattr(source, attribute) for attribute in wanted):
        pool = getattr(source, "pool_type", None) or getattr(source, "text_pool_type", None)
        blocks = source.transformer.resblocks
        checks = {
            "it has no causal mask": getattr(source, "attn_mask", None) is None,
            "it appends a class token": getattr(source, "cls_emb", None) is not None,
            f"it reads out by {pool!r}, not at the end token": pool != "argmax",
            "its attention blocks are not CLIP's": not all(isinstance(b, ResidualAttentionBlock) for b in blocks),
        }
        problems = [problem for problem, found in checks.items() if found]
    else:
        problems = ["it is not open_clip's text transformer"]
    if problems:
        raise ValueError(
            f"text tower {type(source).__name__} is not supported: {', '.join(problems)}. Choose an architecture with "
            "CLIP's own text tower in MODEL.CLIP.NAME, e.g. RN50, ViT-B-16, ViT-L-14, convnext_base"
        )
