"""The CLIP that is trained: a new one, one with a pretrained backbone as image tower, or an existing one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glied.checkpoint import Checkpoint
from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, open_clip_model
from glied.clip.preprocessing import preprocessing
from glied.clip.text_encoder import has_text_tower, read_texts
from glied.config_checks import check_shares
from glied.errors import UsageError
from glied.training.tasks.freezing import freeze_stages, keep_statistics
from glied.vision.extractors.timm_cells import load_backbone

LARGEST_SCALE = 100.0
_OF_BACKBONES = ("mean", "std", "interpolation")
"""Preprocessing settings of a backbone that open_clip has, too."""


@dataclass(frozen=True, kw_only=True)
class ClipModelConfig:
    """Which CLIP is trained: a new one, or an existing one."""

    architecture: dict[str, Any] | None = None
    """open_clip's config of a new model: embed_dim, vision_cfg, text_cfg; excludes `start`."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Preprocessing settings of a new model that differ from open_clip's, e.g. {resize_mode: squash}."""
    start: ClipConfig | None = None
    """A model to be finetuned; excludes `architecture`."""
    backbone: str = ""
    """Folder (path or URI) of a timm backbone (jobs/convert_weights.py, jobs/train_backbone.py) that a new
    model's image tower starts from. timm_model_name, image_size, mean, std and interpolation are then its."""
    frozen_stages: int | Literal["all"] = 0
    """The stem and this many stages of `backbone` keep their weights. all: the whole backbone does; it reads
    each image once, into the cache, and only its projection and the text encoder are trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which a backbone that is frozen as a whole reads the images."""
    text_dropout: float = 0.0
    """Dropout of the text encoder: of its embeddings and of what each block adds."""

    def __post_init__(self) -> None:
        """Refuse conflicts."""
        if (self.architecture is None) == (self.start is None):
            raise UsageError("model: give either architecture (a new CLIP) or start (one to be finetuned)")
        if self.start and self.preprocess:
            raise UsageError("model.preprocess is of a new model; the one in start has its own")
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - (self.architecture or {}).keys()
        if self.architecture is not None and missing:
            raise UsageError(f"model.architecture lacks {', '.join(sorted(missing))}")
        check_shares(self, "text_dropout", key="model")
        self._check_backbone()

    def _check_backbone(self) -> None:
        if self.backbone and self.start:
            raise UsageError("model.backbone is of a new model; the one in start has an image tower")
        if self.frozen_stages != "all" and self.frozen_stages < 0:
            raise UsageError(f"model.frozen_stages: {self.frozen_stages} is negative")
        if self.frozen_stages and not self.backbone:
            raise UsageError("model.frozen_stages needs model.backbone: random weights must learn")
        if self.dtype != "float32" and not self.frozen:
            raise UsageError(
                "model.dtype is of a frozen backbone; trainer.optimizer.precision is that of the training"
            )
        given = self.preprocess.keys() & {*_OF_BACKBONES, "size"}
        if self.backbone and given:
            raise UsageError(f"model.preprocess: {', '.join(sorted(given))} are those of model.backbone")

    @property
    def frozen(self) -> bool:
        """Whether the whole image tower but its projection is frozen."""
        return self.frozen_stages == "all"


@dataclass(frozen=True)
class ClipForm:
    """The input format of a model, and what it was loaded with.

    Attributes:
        model_config: open_clip's.
        preprocess: open_clip's, whole.
        used_tokens: the only rows of its token table that mean something; None: all do.
        digest: of the backbone; empty without one.
    """

    model_config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    used_tokens: list[int] | None = None
    digest: str = ""

    @classmethod
    def of(cls, config: ClipModelConfig) -> ClipForm:
        """That of the model which `config` describes."""
        if config.start is not None:
            opened = open_clip_model(config.start)
            used = None if opened.used_tokens is None else opened.used_tokens.tolist()
            return cls(opened.model_config, open_clip.get_model_preprocess_cfg(opened.model), used)
        assert config.architecture is not None
        if config.backbone:
            return cls._of_backbone(config, config.architecture)
        size = config.architecture["vision_cfg"].get("image_size", 224)
        return cls(config.architecture, preprocessing(config.preprocess, size))

    @classmethod
    def _of_backbone(cls, config: ClipModelConfig, architecture: Mapping[str, Any]) -> ClipForm:
        stored = load_backbone(config.backbone)[1]
        vision = _vision(architecture["vision_cfg"], stored)
        given = config.preprocess | {key: stored.metadata[key] for key in _OF_BACKBONES}
        preprocess = preprocessing(given, vision["image_size"])
        return cls({**architecture, "vision_cfg": vision}, preprocess, digest=stored.digest)


def _vision(given: Mapping[str, Any], stored: Checkpoint) -> dict[str, Any]:
    """vision_cfg of a tower that is a stored backbone.

    Raises:
        UsageError: it is another model's.
    """
    name = stored.metadata["model"]
    if given.get("timm_model_name", name) != name:
        raise UsageError(
            f"model.architecture.vision_cfg.timm_model_name is {given['timm_model_name']}, but "
            f"the backbone's is {name}: leave it out"
        )
    defaults = {"timm_model_name": name, "image_size": stored.metadata["input_size"][-1], "timm_pool": "avg"}
    return defaults | dict(given)


def build_model(config: ClipModelConfig, form: ClipForm) -> ClipModel:
    """The model as training starts."""
    if config.start is not None:
        clip: Any = open_clip_model(config.start).model
    else:
        own = {key: value for key, value in form.preprocess.items() if key != "size"}
        clip = build_clip(form.model_config, preprocess=own)
    if config.backbone:
        clip.visual.trunk.load_state_dict(load_backbone(config.backbone)[0].state_dict())
    if getattr(clip, "logit_bias", None) is not None:
        clip.logit_bias.requires_grad_(False)  # SigLIP's; a softmax over pairs does not see it
    return ClipModel(clip, config)


class ClipModel(nn.Module):
    """A CLIP in training, with the vectors of its own forward pass, computed faster.

    Convolutions read channels last, and no text is computed behind its end token.
    """

    def __init__(self, clip: Any, config: ClipModelConfig | None = None) -> None:
        """Wraps a model of open_clip; `config` says what is frozen and dropped."""
        super().__init__()
        self.clip = clip.to(memory_format=torch.channels_last)
        self._reads_words = has_text_tower(clip)
        self._frozen = config is not None and config.frozen
        self._pretrained = config is not None and bool(config.backbone)
        if config is not None:
            self._prepare(config)
        self.limit_scale()

    def _prepare(self, config: ClipModelConfig) -> None:
        if config.frozen_stages == "all":
            self.clip.visual.trunk.requires_grad_(False)
        elif config.frozen_stages:
            freeze_stages(self.clip.visual.trunk, config.frozen_stages)
        if config.text_dropout:
            _drop_text(self.clip, config.text_dropout)

    def train(self, mode: bool = True) -> ClipModel:
        """Sets the mode; a pretrained backbone keeps its batch norm statistics."""
        super().train(mode)
        if self._pretrained:
            keep_statistics(self.clip.visual.trunk)
        return self

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Keep the learned scale at 100 at most, as CLIP does: a cap in `forward` would end its gradient."""
        self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images and tokens [B, T] -> unit vectors [B, E] of both, and their scale.

        Args:
            images: pixels [B, 3, height, width]; where the backbone is frozen what it made of them, [B, F].
            tokens: of the texts.
        """
        if self._reads_words:
            text = F.normalize(read_texts(self.clip, tokens).projected, dim=-1)
        else:
            text = self.clip.encode_text(tokens, normalize=True)
        return self._encode_images(images), text, self.clip.logit_scale.exp()

    def _encode_images(self, images: Tensor) -> Tensor:
        if self._frozen:
            return F.normalize(self.clip.visual.head(images), dim=-1)
        pixels = images.contiguous(memory_format=torch.channels_last)
        return self.clip.encode_image(pixels, normalize=True)


def _drop_text(clip: Any, share: float) -> None:
    """Add dropout to the text encoder; open_clip's has none. Its weights keep their names."""
    if not has_text_tower(clip):
        raise UsageError("model.text_dropout needs open_clip's own text tower: leave it at 0")
    text = getattr(clip, "text", clip)
    blocks = text.transformer.resblocks
    for part in (text.token_embedding, *(part for block in blocks for part in (block.ls_1, block.ls_2))):
        part.register_forward_hook(partial(_dropped, share))


def _dropped(share: float, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return F.dropout(output, share, module.training)
