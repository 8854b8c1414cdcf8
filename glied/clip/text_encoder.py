"""The text encoder of an open_clip model, word by word."""

from typing import Any, NamedTuple

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from glied.errors import UsageError

_PARTS, _ENOUGH = 4, 64
"""On a CPU so many texts or more are read in parts of similar length."""


class TextFeatures(NamedTuple):
    """What the encoder makes of B texts of T tokens.

    Attributes:
        words: [B, T, W], each with what stands before it; zeros behind the end token.
        pooled: [B, W], of the end token.
        projected: [B, E], not normalized.
    """

    words: Tensor
    pooled: Tensor
    projected: Tensor


def has_text_tower(model: Any) -> bool:
    """Whether the text encoder is open_clip's own transformer, without a class token."""
    text = getattr(model, "text", model)
    return hasattr(text, "ln_final") and getattr(text, "cls_emb", None) is None


def text_width(model: Any) -> int:
    """W, the width of the text encoder; raises as `read_texts`."""
    return int(_tower(model).ln_final.weight.shape[0])


def read_texts(model: Any, tokens: Tensor) -> TextFeatures:
    """Features of texts [B, T]; what stands behind an end token is not computed where nothing looks at it.

    Raises:
        UsageError: the text encoder is not open_clip's own transformer.
    """
    text = _tower(model)
    pool, end = (model.text_pool_type, model.text_eos_id) if text is model else (text.pool_type, text.eos_id)
    if text.attn_mask is None or pool not in ("argmax", "eos"):
        words = _with_hook(model, text, tokens)
    else:
        last = tokens.argmax(dim=1) if pool == "argmax" else (tokens == end).int().argmax(dim=1)
        words = _up_to(text, tokens, last + 1)
    pooled = text_global_pool(words, tokens, pool, eos_token_id=end)
    return TextFeatures(words, pooled, _project(text.text_projection, pooled))


def _tower(model: Any) -> Any:
    """What holds the text encoder's parts: older CLIPs do so themselves."""
    if not has_text_tower(model):
        raise UsageError("grammar needs a CLIP with open_clip's own text tower, without a class token")
    return getattr(model, "text", model)


def _up_to(text: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """[B, T, W] of a causal encoder for the first `lengths` [B] tokens, zeros behind."""
    order = lengths.argsort()
    parts = _PARTS if len(tokens) >= _ENOUGH and tokens.device.type == "cpu" else 1
    found = []
    for rows in order.chunk(parts):
        longest = int(lengths[rows].max())
        words = _encode(text, tokens[rows, :longest])
        found.append(F.pad(words, (0, 0, 0, tokens.shape[1] - longest)))
    return torch.cat(found)[order.argsort()]


def _encode(text: Any, tokens: Tensor) -> Tensor:
    """Features after the last normalization, [B, T, W]."""
    count, dtype = tokens.shape[1], text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:count].to(dtype)
    return text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:count, :count]))


def _with_hook(model: Any, text: Any, tokens: Tensor) -> Tensor:
    """The same by open_clip's own way."""
    found: list[Tensor] = []
    hook = text.ln_final.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        model.encode_text(tokens)
    finally:
        hook.remove()
    return found[0]


def _project(projection: Any, pooled: Tensor) -> Tensor:
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
