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

from .open_clip_parts import OpenCLIPTextTower, is_open_clips, pool_type
from .tower import TEXT_TOWERS


@TEXT_TOWERS.register()
class CausalTextTower(OpenCLIPTextTower):
    """CLIP's own text tower: causal, read out at the end token (as in CoOp and DenseCLIP). See `OpenCLIPTextTower`."""

    kind = "causal, end token"
    padding = "unseen"

    @staticmethod
    def problems(source: nn.Module) -> list[str]:
        """See TextTower."""
        if not is_open_clips(source):
            return ["it is not open_clip's text transformer"]
        found = {
            "it appends a class token": getattr(source, "cls_emb", None) is not None,
            f"it reads out by {pool_type(source)!r}, not at the end token": pool_type(source) not in ("argmax", "eos"),
        }
        return [*causal_problems(source), *(problem for problem, holds in found.items() if holds)]

    def forward(self, tokens: Tensor, contexts: Tensor | None = None, start: int = 1) -> Tensor:
        """See TextTower."""
        device, following = self.positional_embedding.device, tokens[:, start:]
        prefix = self.token_embedding(tokens[:1, :start].to(device, non_blocking=True))  # the same for all texts
        if contexts is not None:
            prefix = torch.cat([prefix.expand(len(contexts), -1, -1), contexts.to(prefix.dtype)], dim=1)
        self.check_length(prefix.shape[1] + following.shape[1])
        prefix = prefix + self.positional_embedding[: prefix.shape[1]]
        texts, lengths, visible = self.embed_texts(following, prefix.shape[1])
        # Where texts end is found out on the CPU, so that nothing waits for a GPU.
        is_text = torch.arange(texts.shape[1]) < lengths[:, None]
        places = is_text.repeat(len(prefix), 1).flatten().nonzero().squeeze(1)  # contexts outermost
        ends = lengths.repeat(len(prefix)).cumsum(0) - 1
        places, ends, visible = (x.to(device, non_blocking=True) for x in (places, ends, visible))
        texts = texts.repeat(len(prefix), 1, 1).flatten(0, 1)[places]
        if visible.dim() == 4:
            visible = visible.repeat(len(prefix), 1, 1, 1)
        for block in self.transformer.resblocks:
            arguments = (block, prefix, texts, places, len(tokens), visible)
            if self.checkpointing and torch.is_grad_enabled():
                prefix, texts = checkpoint(_run_block, *arguments, use_reentrant=False)
            else:
                prefix, texts = _run_block(*arguments)
        return self.project(self.ln_final(texts[ends])).unflatten(0, (len(prefix), len(tokens)))

    def embed_texts(self, following: Tensor, prefix_length: int) -> tuple[Tensor, Tensor, Tensor]:
        """What each text adds to its prefix; it is read out at its last token.

        Args:
            following: (K, T) int64 on the CPU, tokens after the start.
            prefix_length: P, positions before them.

        Returns:
            Embedded tokens with positions (K, T, E); and, on the CPU, their number without padding (K,) int64 and who
            sees whom, bool, (T, P + T) or, if texts differ, (K, 1, T, P + T).
        """
        count = following.shape[1]
        positions = self.positional_embedding[prefix_length : prefix_length + count]
        # A text token sees the whole prefix and the text up to itself.
        visible = torch.ones(count, prefix_length + count, dtype=torch.bool).tril(prefix_length)
        embedded = self.token_embedding(following.to(positions.device, non_blocking=True))
        return embedded + positions, self.ends(following) + 1, visible


def causal_problems(source: nn.Module) -> list[str]:
    """Why prefixes of open_clip's text transformer cannot be shared."""
    usual = all(isinstance(block, ResidualAttentionBlock) for block in source.transformer.resblocks)
    found = {
        "it has no causal mask": getattr(source, "attn_mask", None) is None,
        "its attention blocks are not CLIP's": not usual,
    }
    return [problem for problem, holds in found.items() if holds]


def _run_block(
    block: ResidualAttentionBlock, prefix: Tensor, texts: Tensor, places: Tensor, per_prefix: int, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs prefixes (Z, 1 + n, E) and texts (U, E) through one block.

    Args:
        places: (U,) int64, indices of the text tokens among the Z * K * (T - 1) tokens of padded texts.
        per_prefix: K.
        visible: (T - 1, n + T) or (Z * K, 1, T - 1, n + T) bool, True where a token of a text attends to a token of
            the prefix or the text.
    """
    text_length = visible.shape[-2]
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
    attended = F.scaled_dot_product_attention(prefix_query, prefix_memory[0], prefix_memory[1], is_causal=True)
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
