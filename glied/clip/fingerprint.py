"""What decides the scores of a CLIP, as JSON values; no torch here, since drivers of jobs use it."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from glied import checkpoint_files
from glied.clip.config import PROMPT, ClipConfig

KIND = "clip"
USED_TOKENS = "used_tokens"
"""Tensor of a checkpoint: the rows of the token table that are stored, where it is stored in part."""
TOKEN_TABLES = ("token_embedding.weight", "text.token_embedding.weight")
"""Names of the token table in models of open_clip."""


def clip_fingerprint(
    model_config: Mapping[str, Any], preprocess: Mapping[str, Any], *, prompt: str, weights: str
) -> dict[str, Any]:
    """Of a model, its preprocessing and the prompt; `weights` is the digest of the loaded tensors."""
    decisive = {"model_config": dict(model_config), "preprocess": dict(preprocess), "prompt": prompt}
    return json.loads(json.dumps(decisive | {"weights": weights}))


def stored_fingerprint(config: ClipConfig) -> dict[str, Any] | None:
    """`ClipScorer.fingerprint` of a checkpoint, from its files; None where only the loaded model has it.

    It is also None where the model may lack words of the prompt, which `load_clip` refuses.

    Raises:
        UsageError: there is no checkpoint, or its JSON is broken.
    """
    if not config.checkpoint:
        return None
    info, data = checkpoint_files.read(config.checkpoint)
    if info.kind != KIND:
        return None
    model_config = info.metadata["model_config"]
    try:
        stored = safetensors.numpy.load(data)
    except (ValueError, SafetensorError):  # whoever loads the model says what is wrong
        return None
    if USED_TOKENS in stored and not set(config.prompt.split()) <= set(PROMPT.split()):
        return None
    arrays = _as_loaded(stored, model_config["text_cfg"].get("vocab_size", 0))
    if arrays is None:
        return None
    digest = checkpoint_files.arrays_digest(sorted(arrays.items()), shapes=True)
    return clip_fingerprint(model_config, info.metadata["preprocess"], prompt=config.prompt, weights=digest)


def _as_loaded(arrays: dict[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]] | None:
    """Stored arrays as `open_clip_model` loads them: float32, with `rows` rows in the token table."""
    used = arrays.pop(USED_TOKENS, None)
    loaded = {name: one.astype(np.float32) if one.dtype.kind == "f" else one for name, one in arrays.items()}
    if used is None:
        return loaded
    table = next((name for name in TOKEN_TABLES if name in loaded), None)
    if table is None or not rows:
        return None
    whole = np.zeros((rows, loaded[table].shape[1]), np.float32)
    whole[used] = loaded[table]
    return loaded | {table: whole}
