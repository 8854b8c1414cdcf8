"""Tokenization of captions for the CLIPs of open_clip."""

from collections.abc import Iterable, Mapping
from typing import Any

import open_clip
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

from glied.clip.config import PROMPT
from glied.errors import UsageError


def token_ids(texts: Iterable[str], model_config: Mapping[str, Any]) -> list[int]:
    """Return the ids of all tokens in `texts` and the prompt, and of start, end and padding, ascending.

    Raises:
        UsageError: the model does not use CLIP's own tokenizer.
    """
    if model_config["text_cfg"].get("hf_tokenizer_name"):
        raise UsageError("only models with CLIP's own tokenizer can store a part of their token table")
    tokenizer = clip_tokenizer(model_config["text_cfg"])
    ids = set(tokenizer([""]).unique().tolist())
    for text in (PROMPT, *texts):
        ids.update(tokenizer.encode(text))
    return sorted(ids)


def clip_tokenizer(text_config: Mapping[str, Any]) -> Any:
    """Create open_clip's tokenizer of a model, texts -> [B, T] int64; it truncates long texts."""
    length = text_config.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = dict(text_config.get("tokenizer_kwargs") or {})
    name = text_config.get("hf_tokenizer_name")
    if not name:
        # Reduction masks drop random words; truncation keeps scores deterministic.
        return open_clip.SimpleTokenizer(context_length=length, **options | {"reduction_mask": ""})
    try:
        mode = text_config.get("tokenizer_mode")
        return HFTokenizer(name, context_length=length, tokenizer_mode=mode, **options)
    except (ImportError, OSError) as error:
        message = f"the tokenizer {name} needs the package transformers and the hub's files: {error}"
        raise UsageError(message) from error


def token_table_rows(model_config: Mapping[str, Any]) -> int:
    """Return the number of rows in a model's token table."""
    return int(model_config["text_cfg"].get("vocab_size", open_clip.CLIPTextCfg.vocab_size))
