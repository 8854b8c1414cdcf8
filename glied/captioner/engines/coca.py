"""Captions by any CoCa of open_clip, decoded by our own search.

open_clip 3.3.0's own `generate` needs classes that transformers no longer has, and its beam search adds
logits that are not normalized; see `coca_model` for what is used of open_clip.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from glied import checkpoint
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.engines.coca_model import CocaDecoder
from glied.captioner.engines.config import CocaConfig
from glied.captioner.engines.engine import Engine, EngineCaption, Image, Outcome, Usage
from glied.captioner.inference import freeze
from glied.clip.config import ClipConfig
from glied.clip.model import OpenedClip, build_clip, open_clip_model
from glied.clip.preprocessing import Pixels, preprocessing_of
from glied.clip.tokenizer import clip_tokenizer
from glied.config_keys import with_former_keys
from glied.errors import StorageError, UsageError

OPEN_CLIP_CONFIG = "open_clip_config.json"
"""What the hub's folders of open_clip's models hold beside the weights."""
_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_BEFORE_PUNCTUATION = re.compile(r"\s+(?=[.,;:!?]|'(?:s|t|re|ve|m|ll|d)\b)")
"""CLIP's tokenizer puts a blank there."""


class CocaEngine(Engine):
    """A CoCa of open_clip, an `engine.Engine`.

    Attributes:
        fingerprint: what the captions depend on, beside the decoding.
    """

    def __init__(self, opened: OpenedClip, config: CocaConfig, decoding: DecodingConfig) -> None:
        """Move the model to its device and make its decoder ready for inference.

        Raises:
            UsageError: it is no CoCa that can write captions, or does not fit `decoding`.
        """
        model: Any = opened.model
        if not isinstance(model, open_clip.CoCa):
            raise UsageError(f"{_source(config)} is a CLIP, which writes no captions: name a CoCa")
        preprocess = open_clip.get_model_preprocess_cfg(model)
        self.fingerprint = _fingerprint(model, opened.model_config, preprocess, config)
        self.name = f"coca-{self.fingerprint['weights'][:12]}"
        self.pixels = Pixels(preprocess)
        size = int(np.max(preprocess["size"]))
        self.resolution = size, size
        self.decoding = decoding
        self.device, self.dtype = torch.device(config.device), getattr(torch, config.dtype)
        model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.visual: nn.Module = model.visual
        self.decoder = freeze(CocaDecoder(model))
        self.decoder.check_length(decoding.max_length)
        self.tokenizer = clip_tokenizer(opened.model_config["text_cfg"])
        self._suppressed = [*self._unknown(opened), *map(self._token, decoding.suppress)]

    @classmethod
    def load(cls, config: CocaConfig, decoding: DecodingConfig) -> "CocaEngine":
        """Load the model that `config` names.

        Raises:
            UsageError: there is no such model, or its published weights could not be fetched.
        """
        return cls(open_coca(config), config, decoding)

    @torch.inference_mode()
    def caption(
        self, images: Sequence[Image], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Outcome]:
        """As `engine.Engine.caption`; a CoCa takes no prompt."""
        if not images:
            return []
        _, tokens = self.visual(self._batch(images))  # [B, S, D]
        found = decode(self.decoder, self.decoder.encode(tokens), self.decoding, suppressed=self._suppressed)
        return [
            [
                EngineCaption(self._text(one.tokens), one.log_probability, truncated=not one.finished)
                for one in captions
            ]
            for captions in found
        ]

    def usage(self) -> Usage:
        """Nothing: no requests are sent."""
        return Usage()

    def _batch(self, images: Sequence[Image]) -> Tensor:
        """[B, 3, h, w], each image resized by itself."""
        resized = torch.from_numpy(np.stack([self.pixels.resize(image) for image in images]))
        return self.pixels.normalize(resized.to(self.device)).to(self.dtype)

    def _text(self, tokens: Sequence[int]) -> str:
        return _BEFORE_PUNCTUATION.sub("", self.tokenizer.decode(tokens)).strip()

    def _token(self, word: str) -> int:
        """The token of a word to suppress."""
        tokens = self.tokenizer.encode(word)
        if len(tokens) != 1:
            raise UsageError(
                f"decoding.suppress: {word!r} is {len(tokens)} tokens of CLIP's vocabulary; "
                "only words of one token can be suppressed"
            )
        return int(tokens[0])

    def _unknown(self, opened: OpenedClip) -> list[int]:
        """Tokens that a checkpoint with a part of the token table knows nothing of."""
        if opened.used_tokens is None:
            return []
        unknown = torch.ones(self.decoder.embedding.num_embeddings, dtype=torch.bool)
        unknown[opened.used_tokens] = False
        return unknown.nonzero().squeeze(1).tolist()


def coca_fingerprint(config: CocaConfig, decoding: DecodingConfig) -> tuple[str, dict[str, Any]]:
    """Name and fingerprint of the model that `config` names, which is loaded on the CPU to check it.

    Raises:
        UsageError: as `CocaEngine.load`.
    """
    engine = CocaEngine.load(dataclasses.replace(config, device="cpu"), decoding)
    return engine.name, engine.fingerprint | {"decoding": with_former_keys(decoding)}


def open_coca(config: CocaConfig) -> OpenedClip:
    """The model that `config` names, on the CPU in float32.

    Raises:
        UsageError: there is no such model, or its published weights could not be fetched.
    """
    folder = Path(config.checkpoint or config.weights)
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return _open_folder(folder)
    own = config.checkpoint or (config.weights if config.weights and folder.is_dir() else "")
    clip = (
        ClipConfig(checkpoint=own)
        if own
        else ClipConfig(
            model=config.model,
            weights=config.weights,
            weights_tag=config.weights_tag,
            allow_random=config.allow_random,
        )
    )
    try:
        return open_clip_model(clip)
    except StorageError as error:
        raise _not_fetched(config, error) from error


def _not_fetched(config: CocaConfig, error: StorageError) -> UsageError:
    """Say what to download, and where to put it."""
    published = open_clip.get_pretrained_cfg(config.model, config.weights)
    repository = str(published.get("hf_hub", "")).strip("/") or published.get("url", "")
    return UsageError(
        f"captioner.weights: {config.weights} of {config.model} could not be fetched. Where there is "
        f"internet, `hf download {repository} --local-dir DIR` does; then give DIR as captioner.weights. "
        + " ".join(str(error).split())[:200]
    )


def _open_folder(folder: Path) -> OpenedClip:
    """A folder of the hub: open_clip's config beside the weights."""
    found = next((folder / name for name in _OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UsageError(f"{folder}: no weights beside {OPEN_CLIP_CONFIG}: {' or '.join(_OPEN_CLIP_WEIGHTS)}")
    try:
        content = json.loads((folder / OPEN_CLIP_CONFIG).read_text())
        model = build_clip(
            content["model_cfg"], preprocess=preprocessing_of(content.get("preprocess_cfg", {}))
        )
        open_clip.load_checkpoint(model, str(found), strict=True, weights_only=True)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{folder}: the weights do not fit {OPEN_CLIP_CONFIG}: {error}") from error
    return OpenedClip(model, content["model_cfg"], None)


def _fingerprint(
    model: nn.Module, model_config: Mapping[str, Any], preprocess: Mapping[str, Any], config: CocaConfig
) -> dict[str, Any]:
    """Weights, architecture and pixels; a device changes nothing, a precision does."""
    described = {"model_config": dict(model_config), "preprocess": dict(preprocess)}
    identity = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    weights = checkpoint.weights_digest(model)
    return {"kind": "coca", "weights": weights, "model": identity, "dtype": config.dtype}


def _source(config: CocaConfig) -> str:
    return config.checkpoint or f"{config.model} {config.weights}".strip()
