"""Training task of CLIP: contrastive, from scratch or from any CLIP of open_clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glied import storage
from glied.clip.config import PROMPT
from glied.clip.model import save_clip
from glied.clip.tokenizer import clip_tokenizer, token_ids
from glied.data.hard_negatives import HardNegativesConfig
from glied.data.pairs import Pair, PairsConfig
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.metrics.retrieval import retrieval
from glied.training.config import TrainerConfig
from glied.training.task import Row, Split
from glied.training.tasks.clip_images import ClipImages
from glied.training.tasks.clip_model import ClipForm, ClipModel, ClipModelConfig, build_model
from glied.training.tasks.clip_texts import TextsConfig, all_texts, draw_text, plain, python_random
from glied.training.tasks.contrastive import contrastive_loss, refuse_micro_batches
from glied.training.tasks.false_texts import FalseTexts, HardNegativesBySplit, accuracy_by_kind


@dataclass(frozen=True)
class ClipBatch:
    """Pairs of one step.

    Attributes:
        images: [B, height, width, 3] uint8; with a frozen backbone its features, [B, F] float32.
        tokens: [B, T] int64.
        false: hard negatives of the texts; None without.
    """

    images: Tensor
    tokens: Tensor
    false: FalseTexts | None = None

    @property
    def all_tokens(self) -> Tensor:
        """Those of the texts and then of the hard negatives, [B + N, T]."""
        return self.tokens if self.false is None else torch.cat((self.tokens, self.false.tokens))


@dataclass(frozen=True, kw_only=True)
class TrainClipConfig:
    """Which CLIP is trained, on which pairs, and how."""

    train: PairsConfig
    """Pairs to learn from."""
    validation: PairsConfig
    """Pairs among which retrieval is measured; they are the pool."""
    model: ClipModelConfig
    """A new architecture, or a model to be finetuned."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    """Which text of a pair is learned in a step."""
    prompt_share: float = 0.5
    """Share of the training texts behind the prompt "A photo depicts"; scores are with it."""
    cache: str | None = None
    """Local folder for the images, decoded and resized once, or for the features of a frozen backbone;
    without it images are decoded in every epoch."""
    mirror: bool = False
    """Mirror half of the training images; for captions that seldom name sides."""
    caption_weight: float = 2.0
    """Of a CoCa: weight of the captioning loss beside the contrastive one."""
    hard_negatives: HardNegativesConfig = field(default_factory=HardNegativesConfig)
    """False variants of the texts, with which images are compared, too; not for a CoCa."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        refuse_micro_batches(self.trainer)
        if not 0 <= self.prompt_share <= 1:
            raise UsageError(f"prompt_share: {self.prompt_share} is not in [0, 1]")
        if self.caption_weight <= 0:
            raise UsageError(f"caption_weight: {self.caption_weight} is not above 0")
        if self.model.frozen and not self.cache:
            raise UsageError("model.frozen_stages all needs cache: the backbone reads each image only once")
        if self.cache and not storage.is_local(self.cache):
            raise UsageError(f"cache: {self.cache} is not local: it is mapped into memory")


@dataclass(frozen=True)
class ClipTask(FieldsOnlyPickle):
    """Learns a CLIP from pairs; implements `glied.training.task.Task`."""

    config: TrainClipConfig
    name: str = "clip"

    @cached_property
    def _form(self) -> ClipForm:
        return ClipForm.of(self.config.model)

    @cached_property
    def _tokenizer(self) -> Any:
        return clip_tokenizer(self._form.model_config["text_cfg"])

    @cached_property
    def _images(self) -> ClipImages:
        return ClipImages(self.config.model, self._form, self.config.cache)

    @cached_property
    def _false(self) -> HardNegativesBySplit:
        return HardNegativesBySplit(self.config.hard_negatives, self.config.train, self.config.validation)

    def build(self) -> ClipModel:
        """The model as training starts."""
        return build_model(self.config.model, self._form)

    def data(self, split: Split) -> pa.Table:
        """Rows of `index`, `image` (URI), `texts` and `clauses`; images are decoded into the cache first."""
        if "multimodal_cfg" in self._form.model_config:
            raise UsageError("this task trains no CoCa, whose captioning half would stay as it is")
        pairs = self._source(split)
        self._false.of(split)  # a malformed file is reported before the images are read
        self._images.prepare(pairs, mirrored=self.config.mirror and split == "train")
        return pairs_table(pairs.all)

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> ClipBatch:
        """Read the images, draw a text for each and, in training, a prompt before some."""
        rng = python_random(generator)
        if training:
            texts = [draw_text(row["texts"], row["clauses"], self.config.texts, rng) for row in rows]
            prompts = [PROMPT if rng.random() < self.config.prompt_share else "" for _ in rows]
        else:
            texts, prompts = [row["texts"][0] for row in rows], [PROMPT] * len(rows)
        tokens = self._tokenizer([f"{prompt} {text}" for prompt, text in zip(prompts, texts, strict=True)])
        mirrored = [training and self.config.mirror and rng.random() < 0.5 for _ in rows]
        split: Split = "train" if training else "validation"
        images = self._images.read(self._source(split), [row["index"] for row in rows], mirrored)
        false = self._false.draw(
            split,
            [row["image"] for row in rows],
            texts,
            rng,
            tokenize=self._tokenizer,
            form=lambda row, text: f"{prompts[row]} {text}",
        )
        return ClipBatch(images, tokens, false)

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Contrastive over the pairs of all workers; logs the temperature's inverse and the batch's R@1."""
        image, both, scale = model(self._images.normalized(batch.images), batch.all_tokens)
        text, negatives = both[: len(image)], both[len(image) :]
        false = batch.false
        loss = contrastive_loss(image, text, scale, *(() if false is None else (negatives, false.real)))
        with torch.no_grad():
            own = torch.arange(len(text), device=text.device)
            found = ((text @ image.T).argmax(dim=1) == own).float().mean()
            scalars = {"loss": loss.detach(), "found": found, "scale": scale.detach().squeeze()}
            if false is not None:
                scalars["hard"] = false.share_nearer(image, text, negatives)
        return loss, scalars

    def constrain(self, model: nn.Module) -> None:
        """Limit the scale of the cosines."""
        cast(ClipModel, model).limit_scale()

    def validate(self, model: nn.Module, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Retrieval both ways among all validation images, by full text behind the prompt.

        With hard negatives also how often the full text is nearer to its image, by kind.
        """
        images, texts = [], []
        hard: list[tuple[Tensor, Tensor]] = []
        for batch in batches:
            image, both, _ = model(self._images.normalized(batch.images), batch.all_tokens)
            text, negatives = both[: len(image)], both[len(image) :]
            if batch.false is not None:
                hard.append(batch.false.nearer(image, text, negatives))
            images.append(image.cpu())
            texts.append(text.cpu())
        figures = both_ways(torch.cat(texts), torch.cat(images))
        return figures | accuracy_by_kind(hard, self._false.of("validation").kinds)

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the model in half precision, of a new one only the token rows of the training texts."""
        form, used = self._form, None
        if self.config.model.start is None or form.used_tokens is not None:
            texts = [*all_texts(self.config.train.all), *sorted(self._false.of("train").words())]
            tokenized = map(plain, texts)  # as a captioner writes them: "-lrb-" for a bracket
            used = {*token_ids([*texts, *tokenized], form.model_config), *(form.used_tokens or ())}
        save_clip(folder_uri, cast(ClipModel, model).clip, form.model_config, used_tokens=used)

    def _source(self, split: Split) -> PairsConfig:
        return self.config.train if split == "train" else self.config.validation


def pairs_table(pairs: Sequence[Pair]) -> pa.Table:
    """Rows of a task: `index` into the pairs, `image`, `texts`, `clauses`."""
    rows = [asdict(pair) | {"index": index} for index, pair in enumerate(pairs)]
    texts = pa.list_(pa.string())
    fields = [("index", pa.int64()), ("image", pa.string()), ("texts", texts), ("clauses", texts)]
    return pa.Table.from_pylist(rows, schema=pa.schema([pa.field(*field) for field in fields]))


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
