"""CLIP's causal text transformer, run with a shared prefix.

Shapes: Z prefixes (contexts), P tokens of a prefix (start token included), K texts, S tokens that follow the prefix
(end token and padding included), n tokens of all texts without padding, W token width, Dt width of the text features.

Under a causal mask the activations of a prefix do not depend on what follows. So each prefix is run once, and the
Z * K texts only run their own S tokens, which attend to the prefix's keys and values: for 8 context vectors and names
of up to three tokens 4 of 13 positions are computed per text. Nor does anything depend on the padding after an end
token: only attention, which wants rectangles, sees it.
"""

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class CausalTextTower(nn.Module):
    """Text tower with the weights, and the parameter names, of an open_clip `CLIP` or `TextTransformer`.

    Args:
        source: module with `token_embedding`, `positional_embedding`, `transformer`, `ln_final`, `text_projection`
            and `attn_mask`; its parameters are shared, not copied.
        checkpointing: blocks run again in the backward pass, so that only what goes in is kept for it.

    Raises:
        ValueError: not such a module, or one without causal mask, with another read-out than the end token's, or with
            attention blocks of another kind than CLIP's.
    """

    def __init__(self, source: nn.Module, checkpointing: bool = False):
        super().__init__()
        self.checkpointing = checkpointing
        _check_supported(source)
        self.token_embedding = source.token_embedding
        self.positional_embedding = source.positional_embedding
        self.transformer = source.transformer
        self.ln_final = source.ln_final
        self.text_projection = source.text_projection

    @property
    def context_length(self) -> int:
        """Largest number of tokens of a text, start and end token included."""
        return self.positional_embedding.shape[0]

    @property
    def width(self) -> int:
        return self.positional_embedding.shape[1]

    @property
    def text_dim(self) -> int:
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection.out_features
        return self.width if self.text_projection is None else self.text_projection.shape[1]

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Text features, read out at the end token (method: DenseCLIP's context text encoder, CoOp's prompts).

        Args:
            tokens: (K, 1 + S) int64: start token, text, end token (the largest id of each row), padding.
            contexts: (Z, P - 1, W) vectors put between the start token and the text, in the space of token
                embeddings; None for none.

        Returns:
            (Z, K, Dt), not normalised; Z = 1 without contexts.

        Raises:
            ValueError: the sequences are longer than the tower's positions.
        """
        start, following = tokens[:1, :1], tokens[:, 1:]
        prefix = self.token_embedding(start)  # all texts begin with the same token
        if contexts is not None:
            prefix = torch.cat([prefix.expand(len(contexts), -1, -1), contexts.to(prefix.dtype)], dim=1)
        length = prefix.shape[1] + following.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens, but the text tower has only {self.context_length} positions")
        prefix_positions, positions = self.positional_embedding[:length].split([prefix.shape[1], following.shape[1]])
        prefix = prefix + prefix_positions
        lengths = following.argmax(dim=1) + 1
        is_text = torch.arange(following.shape[1], device=tokens.device) < lengths[:, None]
        places = is_text.repeat(len(prefix), 1).flatten().nonzero().squeeze(1)  # Z-major
        texts = (self.token_embedding(following) + positions).repeat(len(prefix), 1, 1)
        texts = self._run_blocks(prefix, texts.flatten(0, 1)[places], places, following.shape)
        ends = lengths.repeat(len(prefix)).cumsum(0) - 1
        return self._project(self.ln_final(texts[ends])).unflatten(0, (len(prefix), len(tokens)))

    def _run_blocks(self, prefix: Tensor, texts: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        """Runs prefixes and texts through all blocks.

        Args:
            prefix: (Z, P, W).
            texts: (n, W).
            places: (n,) int64, where those tokens are among the Z * K * S of padded texts.
            shape: (K, S).

        Returns:
            (n, W), the text tokens.
        """
        per_prefix, text_length = shape
        # A text token sees the whole prefix and the text up to itself.
        visible = torch.ones(text_length, prefix.shape[1] + text_length, dtype=torch.bool, device=texts.device)
        visible = visible.tril(prefix.shape[1])
        for block in self.transformer.resblocks:
            arguments = (block, prefix, texts, places, per_prefix, visible)
            if self.checkpointing and torch.is_grad_enabled():
                prefix, texts = checkpoint(_run_block, *arguments, use_reentrant=False)
            else:
                prefix, texts = _run_block(*arguments)
        return texts

    def _project(self, features: Tensor) -> Tensor:
        if self.text_projection is None:
            return features
        return (
            self.text_projection(features)
            if isinstance(self.text_projection, nn.Linear)
            else features @ self.text_projection
        )


def _run_block(
    block: ResidualAttentionBlock, prefix: Tensor, texts: Tensor, places: Tensor, per_prefix: int, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs prefixes (Z, P, W) and texts (n, W) through one block.

    Args:
        places: (n,) int64, where the text tokens are among the Z * K * S of padded texts.
        per_prefix: K.
        visible: (S, P + S) bool, what the tokens of a text attend to.
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
    """Queries, keys and values of the block's attention side by side, (..., 3 * W), from tokens (..., W)."""
    return F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)


def _split_heads(block: ResidualAttentionBlock, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (N, heads, T, W / heads), from (N, T, 3 * W)."""
    query, key, value = projected.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _join_heads(attended: Tensor) -> Tensor:
    """(N, T, W) from (N, heads, T, W / heads)."""
    return attended.transpose(1, 2).flatten(2)


def _finish_block(block: ResidualAttentionBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """What follows the attention in a pre-norm block: output projection, residuals, MLP."""
    tokens = tokens + block.ls_1(block.attn.out_proj(attended))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def _check_supported(source: nn.Module) -> None:
    wanted = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    problems = []
    if not all(hasattr(source, attribute) for attribute in wanted):
        problems.append("it is not open_clip's text transformer")
    else:
        pool = getattr(source, "pool_type", None) or getattr(source, "text_pool_type", None)
        if getattr(source, "attn_mask", None) is None:
            problems.append("it has no causal mask")
        if getattr(source, "cls_emb", None) is not None:
            problems.append("it appends a class token")
        if pool != "argmax":
            problems.append(f"it reads out by {pool!r}, not at the end token")
        if not all(isinstance(block, ResidualAttentionBlock) for block in source.transformer.resblocks):
            problems.append("its attention blocks are not CLIP's")
    if problems:
        raise ValueError(
            f"text tower {type(source).__name__} is not supported: {', '.join(problems)}. Choose an architecture with "
            "CLIP's own text tower in MODEL.CLIP.NAME, e.g. RN50, ViT-B-16, ViT-L-14, convnext_base"
        )
