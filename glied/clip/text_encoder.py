"""Per-token features of an open_clip text encoder."""

from typing import Any, NamedTuple

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from glied.errors import UsageError

_PARTS, _ENOUGH = 4, 64
"""On a CPU, at least this many texts (second value) are encoded in this many parts of similar length
(first)."""


class TextFeatures(NamedTuple):
    """Features of B texts of T tokens.

    Attributes:
        words: [B, T, W], the causal feature of each token; zero after the end token.
        pooled: [B, W], the feature of the end token.
        projected: [B, E], the projected pooled feature, not normalized.
    """

    words: Tensor
    pooled: Tensor
    projected: Tensor


def has_text_tower(model: Any) -> bool:
    """Whether the text encoder is open_clip's own transformer, without a class token."""
    text = getattr(model, "text", model)
    return hasattr(text, "ln_final") and getattr(text, "cls_emb", None) is None


def text_width(model: Any) -> int:
    """Return W, the width of the text encoder; raises as `read_texts`."""
    return int(_tower(model).ln_final.weight.shape[0])


def read_texts(model: Any, tokens: Tensor) -> TextFeatures:
    """Encode texts [B, T]; in causal encoders, tokens after the end token are skipped.

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
    """Return the module that holds the text encoder's parts; in older CLIPs that is the model itself."""
    if not has_text_tower(model):
        raise UsageError("grammar needs a CLIP with open_clip's own text tower, without a class token")
    return getattr(model, "text", model)


def _up_to(text: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Encode the first `lengths` [B] tokens with a causal encoder -> [B, T, W], zero after them."""
    order = lengths.argsort()
    parts = _PARTS if len(tokens) >= _ENOUGH and tokens.device.type == "cpu" else 1
    encoded = []
    for rows in order.chunk(parts):
        longest = int(lengths[rows].max())
        words = _encode(text, tokens[rows, :longest])
        encoded.append(F.pad(words, (0, 0, 0, tokens.shape[1] - longest)))
    return torch.cat(encoded)[order.argsort()]


def _encode(text: Any, tokens: Tensor) -> Tensor:
    """Return the features after the last normalization, [B, T, W]."""
    count, dtype = tokens.shape[1], text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:count].to(dtype)
    return text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:count, :count]))


def _with_hook(model: Any, text: Any, tokens: Tensor) -> Tensor:
    """Return the same features from open_clip's own forward pass, for encoders that are not causal."""
    outputs: list[Tensor] = []
    hook = text.ln_final.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        model.encode_text(tokens)
    finally:
        hook.remove()
    return outputs[0]


def _project(projection: Any, pooled: Tensor) -> Tensor:
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
