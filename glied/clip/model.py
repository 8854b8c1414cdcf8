"""Loading any CLIP of open_clip, and saving and loading checkpoints of our own CLIPs."""

import copy
import dataclasses
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors
import torch
from torch import Tensor, nn

from glied import checkpoint
from glied.clip.config import ClipConfig, known_tags
from glied.clip.fingerprint import KIND, TOKEN_TABLES, USED_TOKENS
from glied.clip.preprocessing import preprocessing, preprocessing_of
from glied.clip.tokenizer import token_ids, token_table_rows
from glied.errors import StorageError, UsageError


def build_clip(model_config: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a CLIP from an open_clip config, on the CPU in float32, with random weights.

    Args:
        model_config: embed_dim, vision_cfg, text_cfg etc., as in open_clip's JSON files.
        preprocess: settings that differ from open_clip's default preprocessing, e.g. `{"resize_mode":
            "squash"}`.

    Raises:
        UsageError: open_clip cannot build it.
    """
    config = copy.deepcopy(dict(model_config))
    try:
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in config["text_cfg"]:
            config["text_cfg"]["hf_model_pretrained"] = False
        model: Any = _model_class(config)(**config)
    except (TypeError, KeyError, ImportError, RuntimeError, OSError) as error:
        raise UsageError(f"open_clip cannot build this CLIP: {type(error).__name__}: {error}") from error
    open_clip.set_model_preprocess_cfg(model, preprocessing(preprocess or {}, model.visual.image_size))
    return model


@dataclasses.dataclass(frozen=True)
class OpenedClip:
    """A CLIP loaded from storage.

    Attributes:
        model: the model on the CPU in float32, with its preprocessing.
        model_config: its open_clip config.
        used_tokens: [n] int64, the trained rows of the token table; None if all are.
    """

    model: nn.Module
    model_config: Mapping[str, Any]
    used_tokens: Tensor | None


def open_clip_model(config: ClipConfig) -> OpenedClip:
    """Load the CLIP that `config` names, without unpickling and without advancing torch's generator.

    Raises:
        UsageError: the weights or checkpoint do not exist or do not fit.
        StorageError: published weights could not be downloaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # makes random weights reproducible
        return _load_own(config) if config.checkpoint else _load_published(config)


def save_clip(
    folder_uri: str,
    model: nn.Module,
    model_config: Mapping[str, Any],
    *,
    used_tokens: Iterable[int] | None = None,
    half: bool = True,
    **extra: Any,
) -> None:
    """Write a checkpoint folder for `ClipConfig.checkpoint`: weights, config and preprocessing of `model`.

    Args:
        folder_uri: path or URI.
        model: a model made by `build_clip`.
        model_config: the config it was built from.
        used_tokens: the rows of the token table to store, from `token_ids`; start, end and padding are added.
            When loaded, the other rows are zero, and words that need them are rejected. None stores all rows.
        half: store float16; computation stays in float32.
        extra: additional metadata.

    Raises:
        UsageError: the model has no token table that can be stored in part.
    """
    tensors = model.state_dict()
    if used_tokens is not None:
        ids = torch.tensor(sorted({*used_tokens, *token_ids([], model_config)}))
        table = _token_table(tensors)
        tensors |= {table: tensors[table].cpu()[ids], USED_TOKENS: ids.int()}
    metadata = extra | {
        "kind": KIND,
        "model_config": dict(model_config),
        "preprocess": open_clip.get_model_preprocess_cfg(model),
    }
    checkpoint.save(folder_uri, tensors, metadata, half=half)


def _load_own(config: ClipConfig) -> OpenedClip:
    stored = checkpoint.load(config.checkpoint, KIND)
    model_config = stored.metadata["model_config"]
    model = build_clip(model_config, preprocess=stored.metadata["preprocess"])
    tensors = stored.tensors
    used_tokens = tensors.pop(USED_TOKENS, None)
    if used_tokens is not None:
        used_tokens = used_tokens.long()
        table = _token_table(tensors)
        whole = torch.zeros(token_table_rows(model_config), tensors[table].shape[1])
        whole[used_tokens] = tensors[table]
        tensors[table] = whole
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(f"the weights in {config.checkpoint} do not fit its config: {error}") from error
    return OpenedClip(model, model_config, used_tokens)


def _load_published(config: ClipConfig) -> OpenedClip:
    model_config = open_clip.get_model_config(config.model)
    if not config.weights:
        return OpenedClip(build_clip(model_config), model_config, None)
    path, published = _weights_file(config)
    # OpenAI's weights and some others need quick GELU, which the plain name lacks; open_clip only warns.
    model_config["quick_gelu"] = bool(published.get("quick_gelu") or model_config.get("quick_gelu"))
    model = build_clip(model_config, preprocess=preprocessing_of(published))
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except (RuntimeError, KeyError, ValueError, EOFError, StopIteration, AttributeError) as error:
        raise UsageError(f"weights {config.weights!r} do not fit {config.model}: {error}") from error
    except (pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = "neither safetensors nor a pickle of tensors only (others are rejected, they can run code)"
        raise UsageError(f"weights {config.weights!r}: {reason}") from error
    return OpenedClip(model, model_config, None)


def _weights_file(config: ClipConfig) -> tuple[str, Mapping[str, Any]]:
    """Return the local path of the weights and open_clip's entry for their tag."""
    published = open_clip.get_pretrained_cfg(config.model, config.weights)
    if published:
        try:
            return open_clip.download_pretrained(published), published
        except Exception as error:  # the hub's client raises many types
            advice = "without internet, name a local copy in weights and the tag in weights_tag"
            message = f"cannot fetch weights {config.weights} of {config.model}: {error}; {advice}"
            raise StorageError(message) from error
    if not Path(config.weights).is_file():
        what = f"weights {config.weights!r}: neither a file nor a published tag of {config.model}"
        raise UsageError(f"{what}, which has {known_tags(config.model)}")
    if config.weights_tag:
        return config.weights, open_clip.get_pretrained_cfg(config.model, config.weights_tag)
    return config.weights, _only_preprocessing(config.model)


def _only_preprocessing(model: str) -> Mapping[str, Any]:
    """Return the preprocessing that all published weights of an architecture share.

    Raises:
        UsageError: the published weights differ in preprocessing, so that of a file without a tag is unknown.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    entries = [preprocessing_of(open_clip.get_pretrained_cfg(model, tag)) for tag in tags]
    if any(entry != entries[0] for entry in entries):
        raise UsageError(
            f"the preprocessing of {model} depends on its weights: name its tag in weights_tag, one of "
            f"{known_tags(model)}"
        )
    return entries[0] if entries else {}


def _model_class(config: dict[str, Any]) -> type[nn.Module]:
    """Return open_clip's class for a config; removes `custom_text`, which the class does not accept."""
    if not (config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]):
        return open_clip.CLIP
    return open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP


def _token_table(tensors: Mapping[str, Tensor]) -> str:
    for name in TOKEN_TABLES:
        if name in tensors:
            return name
    raise UsageError("only CLIPs with open_clip's own text tower can store a part of their token table")
