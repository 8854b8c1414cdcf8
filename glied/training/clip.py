"""Training task of CLIP: images and texts, contrastively, from nothing or from any CLIP of open_clip."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import open_clip
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glied import storage
from glied.datasets.cached import Light, cached_array
from glied.datasets.pairs import Pair, PairsConfig
from glied.errors import ImageError, UsageError
from glied.evaluation.retrieval import retrieval
from glied.rewards.clip import (
    build_clip,
    clip_tokenizer,
    open_clip_model,
    preprocessing,
    save_clip,
    token_ids,
)
from glied.rewards.config import PROMPT, ClipConfig
from glied.rewards.pixels import Pixels
from glied.rewards.text_encoder import has_text_tower, read_texts
from glied.training.contrastive import contrastive_loss
from glied.training.task import Row, Split
from glied.training.texts import TextsConfig, all_texts, draw_text, python_random
from glied.vision.images import decode

LARGEST_SCALE = 100.0
_CACHE_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class ClipModelConfig:
    """Which CLIP is trained: a new one, or one that exists."""

    architecture: dict[str, Any] | None = None
    """open_clip's config of a new model: embed_dim, vision_cfg, text_cfg; excludes `start`."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """What a new model's preprocessing has different from open_clip's, e.g. {resize_mode: squash}."""
    start: ClipConfig | None = None
    """A model to be finetuned; excludes `architecture`."""

    def __post_init__(self) -> None:
        """Refuse conflicts."""
        if (self.architecture is None) == (self.start is None):
            raise UsageError("model: give either architecture (a new CLIP) or start (one to be finetuned)")
        if self.start and self.preprocess:
            raise UsageError("model.preprocess is of a new model; the one in start has its own")
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - (self.architecture or {}).keys()
        if self.architecture is not None and missing:
            raise UsageError(f"model.architecture lacks {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class ClipBatch:
    """Pairs of one step: pixels [B, height, width, 3] uint8 and tokens [B, T] int64."""

    pixels: Tensor
    tokens: Tensor


class ClipModel(nn.Module):
    """A CLIP in training: vectors as its own forward makes them, sooner.

    Convolutions read channels last, and no text is computed behind its end token.
    """

    def __init__(self, clip: Any) -> None:
        """Take over a model of open_clip."""
        super().__init__()
        self.clip = clip.to(memory_format=torch.channels_last)
        self._reads_words = has_text_tower(clip)
        self.limit_scale()

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Keep the learned scale at 100 at most, as CLIP does: a cap in `forward` would end its gradient."""
        self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B, 3, height, width], tokens [B, T] -> unit vectors [B, E] of both, and their scale."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        image = self.clip.encode_image(pixels, normalize=True)
        if self._reads_words:
            text = F.normalize(read_texts(self.clip, tokens).projected, dim=-1)
        else:
            text = self.clip.encode_text(tokens, normalize=True)
        return image, text, self.clip.logit_scale.exp()


@dataclass(frozen=True)
class _Form:
    """How a model wants its input, and which rows of its token table it came with."""

    model_config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    used_tokens: list[int] | None


@dataclass(frozen=True, kw_only=True)
class ClipTask(Light):
    """Learns a CLIP from pairs; implements `glied.training.task.Task`."""

    train: PairsConfig
    validation: PairsConfig
    model: ClipModelConfig
    texts: TextsConfig = field(default_factory=TextsConfig)
    prompt_share: float = 0.5
    cache: str | None = None
    name: str = "clip"

    @cached_property
    def _form(self) -> _Form:
        if self.model.architecture is not None:
            config = self.model.architecture
            size = config["vision_cfg"].get("image_size", 224)
            return _Form(config, preprocessing(self.model.preprocess, size), None)
        assert self.model.start is not None
        opened = open_clip_model(self.model.start)
        used = None if opened.used_tokens is None else opened.used_tokens.tolist()
        return _Form(opened.model_config, open_clip.get_model_preprocess_cfg(opened.model), used)

    @cached_property
    def _tokenizer(self) -> Any:
        return clip_tokenizer(self._form.model_config["text_cfg"])

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels(self._form.preprocess)

    def build(self) -> ClipModel:
        """The model as training starts."""
        if self.model.start is not None:
            model: Any = open_clip_model(self.model.start).model
        else:
            model = build_clip(self._form.model_config, preprocess=self.model.preprocess)
        if getattr(model, "logit_bias", None) is not None:
            model.logit_bias.requires_grad_(False)  # SigLIP's; a softmax over pairs does not see it
        return ClipModel(model)

    def data(self, split: Split) -> pa.Table:
        """Rows of `index`, `image` (URI), `texts` and `clauses`; images are decoded into the cache first."""
        if "multimodal_cfg" in self._form.model_config:
            raise UsageError("a CoCa cannot be trained here: its captioning half would stay as it is")
        pairs = self._source(split)
        if self.cache:
            self._cached(pairs)
        return pairs_table(pairs.all)

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> ClipBatch:
        """Read the images, draw a text for each and, in training, a prompt before some."""
        rng = python_random(generator)
        if training:
            texts = [draw_text(row["texts"], row["clauses"], self.texts, rng) for row in rows]
            prompts = [PROMPT if rng.random() < self.prompt_share else "" for _ in rows]
        else:
            texts, prompts = [row["texts"][0] for row in rows], [PROMPT] * len(rows)
        tokens = self._tokenizer([f"{prompt} {text}" for prompt, text in zip(prompts, texts, strict=True)])
        return ClipBatch(self._read(rows, self._source("train" if training else "validation")), tokens)

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Contrastive over the pairs of all workers; logs the temperature's inverse and the batch's R@1."""
        image, text, scale = model(self._pixels.normalize(batch.pixels), batch.tokens)
        loss = contrastive_loss(image, text, scale)
        with torch.no_grad():
            own = torch.arange(len(text), device=text.device)
            found = ((text @ image.T).argmax(dim=1) == own).float().mean()
        return loss, {"loss": loss.detach(), "found": found, "scale": scale.detach().squeeze()}

    def constrain(self, model: nn.Module) -> None:
        """Limit the scale of the cosines."""
        cast(ClipModel, model).limit_scale()

    def validate(self, model: nn.Module, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Retrieval both ways among all validation images, by full text behind the prompt."""
        images, texts = [], []
        for batch in batches:
            image, text, _ = model(self._pixels.normalize(batch.pixels), batch.tokens)
            images.append(image.cpu())
            texts.append(text.cpu())
        return both_ways(torch.cat(texts), torch.cat(images))

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the model in half precision, of a new one only the token rows of the training texts."""
        form, used = self._form, None
        if self.model.start is None or form.used_tokens is not None:
            used = {*token_ids(all_texts(self.train.all), form.model_config), *(form.used_tokens or ())}
        save_clip(folder_uri, cast(ClipModel, model).clip, form.model_config, used_tokens=used)

    def _source(self, split: Split) -> PairsConfig:
        return self.train if split == "train" else self.validation

    def _read(self, rows: Sequence[Row], pairs: PairsConfig) -> Tensor:
        """The images of rows -> [B, height, width, 3] uint8."""
        if self.cache:
            return torch.from_numpy(np.array(self._cached(pairs)[[row["index"] for row in rows]]))
        return torch.from_numpy(np.stack([self._pixels.resize(read_image(row["image"])) for row in rows]))

    def _cached(self, pairs: PairsConfig) -> NDArray[np.uint8]:
        """All images of a split as the model's preprocessing resizes them, [N, height, width, 3]."""
        assert self.cache is not None
        return cached_array(
            self.cache,
            cache_name("pixels", pairs.digest, self._form.preprocess),
            shape=(len(pairs.all), *self._pixels.size, 3),
            dtype=np.uint8,
            fill=lambda array: self._fill(array, pairs.all),
        )

    def _fill(self, array: NDArray, pairs: Sequence[Pair]) -> None:
        def fill_one(index: int) -> None:
            array[index] = self._pixels.resize(read_image(pairs[index].image))

        with ThreadPoolExecutor(_CACHE_THREADS) as pool:
            for _ in pool.map(fill_one, range(len(pairs))):
                pass


def pairs_table(pairs: Sequence[Pair]) -> pa.Table:
    """Rows of a task: `index` into the pairs, `image`, `texts`, `clauses`."""
    rows = [asdict(pair) | {"index": index} for index, pair in enumerate(pairs)]
    texts = pa.list_(pa.string())
    fields = [("index", pa.int64()), ("image", pa.string()), ("texts", texts), ("clauses", texts)]
    return pa.Table.from_pylist(rows, schema=pa.schema([pa.field(*field) for field in fields]))


def read_image(uri: str) -> NDArray[np.uint8]:
    """An image of the pairs, upright RGB [H, W, 3].

    Raises:
        UsageError: it is missing or broken.
    """
    try:
        return decode(storage.read_bytes(uri))
    except (FileNotFoundError, ImageError) as error:
        raise UsageError(
            f"{uri} of the pairs cannot be read ({error}): mend it or remove it there"
        ) from error


def cache_name(kind: str, *parts: Any) -> str:
    """A file name that is another one where any of `parts` is."""
    return (
        f"{kind}-{hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]}"
    )


def both_ways(texts: Tensor, images: Tensor) -> dict[str, float]:
    """Retrieval of images by texts, then of texts by images ("image_to_text_..."), and the pool's size.

    Args:
        texts: [N, E], unit vectors.
        images: [N, E], unit vectors; row i belongs to text i.

    Returns:
        The figures; NaN for "r1" where vectors are not finite, as those of a model that has diverged.
    """
    if not (texts.isfinite().all() and images.isfinite().all()):
        return {"r1": math.nan, "pool": float(len(texts))}
    a, b = F.normalize(texts.float(), dim=1).numpy(), F.normalize(images.float(), dim=1).numpy()
    figures = {_key(name): value for name, value in retrieval(a, b).items()}
    figures |= {f"image_to_text_{_key(name)}": value for name, value in retrieval(b, a).items()}
    return figures | {"pool": float(len(texts))}


def _key(name: str) -> str:
    """ "R@1" -> "r1", for TensorBoard's sake."""
    return name.lower().replace("@", "").replace(" ", "_")
