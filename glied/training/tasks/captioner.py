"""Training task of the captioner: cross-entropy on reference captions over stored region features.

A row is an image with all its captions: the image is encoded once and its captions share the memory.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner, attribute_ids
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.familiarity import Familiarity
from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.extractor_fingerprint import check_trained_on
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.regions import RegionBatch
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import BOS, EOS, PAD, SPECIAL, Vocabulary, load_words
from glied.training.history import Sample
from glied.training.task import WEIGHT, Row, Split
from glied.training.tasks.familiarity import familiarity_of
from glied.training.tasks.losses import word_cross_entropy
from glied.vision.attributes import AttributePredictor, load_attributes

log = logging.getLogger(__name__)

TopWords = dict[tuple[str, int], list[str]]
"""The likeliest attribute words of images, by what `_key` gives."""
SHOWN = 8
"""Captions of a validation that the run's log keeps."""


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Which words the captioner knows and sees."""

    vocabulary: str = ""
    """vocabulary.json (path or URI) of jobs/prepare_coco.py; empty counts the training captions' words."""
    minimum_count: int = 5
    """Without `vocabulary`: words that occur less often in the training captions are unknown."""
    max_length: int = 20
    """Longer training captions are cut after this many words."""
    attributes: str
    """Checkpoint (folder or URI) of the attribute predictor."""
    attribute_count: int = 49
    """N, the number of most probable attribute words that the captioner sees."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        for name in ("minimum_count", "max_length", "attribute_count"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: {getattr(self, name)} is not at least 1")


@dataclass(frozen=True)
class CaptionBatch:
    """Images of one step: B images, C captions each, T tokens.

    Attributes:
        regions: of B images.
        attributes: [B, N] int64 word ids.
        attribute_mask: [B, N], True where real.
        inputs: [B, C, T] int64, begin token first.
        targets: [B, C, T] int64, end token last, `PAD` where there is no word.
        references: the captions as text, for metrics.
    """

    regions: RegionBatch
    attributes: Tensor
    attribute_mask: Tensor
    inputs: Tensor
    targets: Tensor
    references: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class CaptionerTask(FieldsOnlyPickle):
    """Learns a `CaptioningModel` with cross-entropy; implements `glied.training.task.Task`."""

    train: CaptionedRegions
    validation: CaptionedRegions
    words: WordsConfig
    model: CaptionerConfig
    label_smoothing: float = 0.1
    scheduled_sampling: float = 0.0
    """Where the share of words that the model reads from itself has risen to at the end of training."""
    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    name: str = "captioner"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the config's file, or of the training captions; raises as `load_words`."""
        if self.words.vocabulary:
            return Vocabulary(load_words(self.words.vocabulary))
        every = (caption for captions in self.train.references.values() for caption in captions)
        return Vocabulary.from_captions(every, self.words.minimum_count)

    def check_words(self) -> None:
        """Say so where the captioner can name fewer attribute words than it is to see.

        Raises:
            UsageError: it has no words at all, or none of those that the predictor knows.
        """
        if len(self.vocabulary) == len(SPECIAL):
            raise UsageError(
                f"no word of {self.train.captions} occurs {self.words.minimum_count} times: lower "
                "words.minimum_count, or give more captions"
            )
        if not self.model.reads_attributes:
            return
        known, wanted = (
            sum(word in self.vocabulary for word in self.predictor.words),
            self.words.attribute_count,
        )
        if not known:
            raise UsageError(f"words.attributes: {self.words.attributes} knows no word of the vocabulary")
        if known < wanted:
            log.warning(
                "words.attribute_count: %d are asked for, the vocabulary has %d of the words of %s",
                wanted, known, self.words.attributes,
            )  # fmt: skip

    @cached_property
    def predictor(self) -> AttributePredictor:
        """The attribute predictor, frozen."""
        return load_attributes(self.words.attributes).eval().requires_grad_(False)

    @cached_property
    def _known_words(self) -> dict[bool, TopWords]:
        """Of training and validation images; the predictor is frozen, so each image is looked at once."""
        return {True: {}, False: {}}

    def build(self) -> CaptioningModel:
        """The untrained model; the attribute predictor, which reads the same features, knows their size."""
        feature_size = self.predictor.feature_size
        return build_model(self.model, feature_size=feature_size, vocabulary_size=len(self.vocabulary))

    def data(self, split: Split) -> list[str]:
        """The Parquet files of the feature store.

        Raises:
            UsageError: as `features.paths`, `CaptionedRegions.check` and `check_words`; the attribute
                predictor was trained on other regions.
        """
        source = self.train if split == "train" else self.validation
        source.check()
        if split == "train":
            attributes = f"words.attributes: {self.words.attributes}"
            check_trained_on(attributes, self.predictor.extractor, source.extractor, source.features)
            self.check_words()
        return source.paths()

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> CaptionBatch:
        """Read regions, predict attributes, look captions up and turn them into ids."""
        pairs = (self.train if training else self.validation).pair(rows)
        references = [captions for _, captions in pairs]
        count = self.words.attribute_count if self.model.reads_attributes else 0
        stored = [row for row, _ in pairs]
        regions, attributes, mask = read_images(
            stored, self.predictor, self.vocabulary, count, self._known_words[training]
        )
        if training and self.region_dropout:
            regions = thin_out(regions, self.region_dropout, generator)
        encoded = [
            [self.vocabulary.encode(tokenize(text)[: self.words.max_length]) for text in one]
            for one in references
        ]
        inputs, targets = caption_tensors(encoded)
        return CaptionBatch(regions, attributes, mask, inputs, targets, references)

    def loss(self, model: nn.Module, batch: CaptionBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """`loss_at` the start of training."""
        return self.loss_at(model, batch, 0.0)

    def loss_at(
        self, model: nn.Module, batch: CaptionBatch, done: float
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Label-smoothed cross-entropy per word; logs the share of words predicted right too.

        With scheduled sampling (Bengio et al. 2015, arXiv 1506.03099) part of the inputs are words that the
        model has drawn itself, in a first pass without gradients (Mihaylova and Martins 2019).
        """
        mask, inputs, share = batch.targets != PAD, batch.inputs, self.scheduled_sampling * done
        if share > 0:
            with torch.no_grad():
                first = getattr(model, "module", model)
                logits = first(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)
                inputs = mix_inputs(inputs, logits, mask, share)
        logits = model(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)
        targets = batch.targets[mask]
        with torch.no_grad():
            accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        loss = word_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return loss, {"loss": loss.detach(), "accuracy": accuracy, WEIGHT: mask.sum()}

    def validate(self, model: nn.Module, batches: Iterable[CaptionBatch]) -> dict[str, float]:
        """CIDEr x 100 of decoded captions, and the cross-entropy per word without smoothing."""
        return self.validate_and_show(model, batches)[0]

    def validate_and_show(
        self, model: nn.Module, batches: Iterable[CaptionBatch]
    ) -> tuple[dict[str, float], list[Sample]]:
        """As `validate`, with the captions of the first images."""
        captioner = cast(CaptioningModel, model)
        hypotheses: list[str] = []
        references: list[list[str]] = []
        total = words = 0.0
        for batch in batches:
            memory = captioner.encode(batch.regions, batch.attributes, batch.attribute_mask)
            mask = batch.targets != PAD
            logits = captioner.logits(memory, batch.inputs, mask)
            total += word_cross_entropy(logits, batch.targets[mask]).item() * len(logits)
            words += len(logits)
            for found in decode(captioner, memory, self.decoding):
                hypotheses.append(" ".join(self.vocabulary.decode(found[0].tokens)) if found else "")
            references += batch.references
        numbered = {str(image): text for image, text in enumerate(hypotheses)}
        truths = {str(image): texts for image, texts in enumerate(references)}
        metrics = {"cider": cider(numbered, truths), "loss": total / max(words, 1.0)}
        shown = zip(hypotheses[:SHOWN], references, strict=False)
        return metrics, [Sample(text, known[0]) for text, known in shown]

    @cached_property
    def _familiarity(self) -> Familiarity | None:
        return familiarity_of(self.train.features, self.validation.features)

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the captioner in half precision, as it ships."""
        captioner = Captioner(
            cast(CaptioningModel, model),
            self.vocabulary,
            attribute_count=self.words.attribute_count,
            extractor=self.train.extractor,
            familiarity=self._familiarity,
        )
        captioner.save(folder_uri, half=True)


def read_images(
    rows: Sequence[Row],
    predictor: AttributePredictor,
    vocabulary: Vocabulary,
    count: int,
    known: TopWords,
) -> tuple[RegionBatch, Tensor, Tensor]:
    """What the captioner sees of images: their regions, and ids [B, N] and mask of N attribute words.

    N is `count`; 0 for a model that does not look at attributes. `known` has the words of images that were
    read before, and gets those of the others.
    """
    found = [features.read(row) for row in rows]
    regions = RegionBatch.collate(found)
    keys = [_key(row) for row in rows] if count else []
    new = [index for index, key in enumerate(keys) if key not in known]
    if new:
        with torch.inference_mode():
            top = predictor.top(RegionBatch.collate([found[index] for index in new]), count)
        known.update((keys[index], [word for word, _ in one]) for index, one in zip(new, top, strict=True))
    words = [known[key] for key in keys] if count else [[] for _ in rows]
    ids, mask = attribute_ids(words, vocabulary, count)
    return regions, ids, mask


def _key(row: Row) -> tuple[str, int]:
    """An image's id and a checksum of its features: its copies have others."""
    return row["id"], zlib.crc32(row["features"])


def thin_out(batch: RegionBatch, share: float, generator: torch.Generator) -> RegionBatch:
    """Leave out a random `share` of each image's regions; at least one stays.

    With a grid of cells, neighbors say much the same, and captioners learn the training images by heart.
    """
    counts = batch.mask.sum(dim=1)
    kept = (counts * (1 - share)).ceil().clamp(min=1).long()
    drawn = torch.rand(batch.mask.shape, generator=generator).masked_fill(~batch.mask, -1.0)
    chosen = drawn.topk(int(kept.max()), dim=1).indices  # [B, R']
    mask = torch.arange(chosen.shape[1]) < kept[:, None]
    rows = torch.arange(len(chosen))[:, None]
    hidden = ~mask[..., None]
    features = batch.features[rows, chosen].masked_fill(hidden, 0.0)
    return RegionBatch(features, batch.boxes[rows, chosen].masked_fill(hidden, 0.0), mask, batch.sizes)


def mix_inputs(inputs: Tensor, logits: Tensor, mask: Tensor, share: float) -> Tensor:
    """Replace a random `share` of the words that are read by words drawn from the model, never special ones.

    Args:
        inputs: [B, C, T] int64, begin token first.
        logits: [M, V], of the word after each of the M real places of `mask`, in order.
        mask: [B, C, T], True where real.
        share: probability of each replacement.
    """
    words = logits[:, len(SPECIAL) :].float().softmax(dim=-1)
    drawn = torch.full_like(inputs, PAD)
    drawn[mask] = torch.multinomial(words, 1).squeeze(1) + len(SPECIAL)
    replaced = mask & (torch.rand(inputs.shape, device=inputs.device) < share)
    replaced[..., 0] = False  # nothing comes before the begin token
    return torch.where(replaced, drawn.roll(1, dims=-1), inputs)


def caption_tensors(captions: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Word ids per image and caption -> inputs and targets, both [B, C, T]; missing captions are padding."""
    count = max(len(one) for one in captions)
    length = 1 + max(len(caption) for one in captions for caption in one)
    inputs = torch.full((len(captions), count, length), PAD)
    targets = torch.full((len(captions), count, length), PAD)
    for image, one in enumerate(captions):
        for position, caption in enumerate(one):
            inputs[image, position, : len(caption) + 1] = torch.tensor([BOS, *caption])
            targets[image, position, : len(caption) + 1] = torch.tensor([*caption, EOS])
    return inputs, targets
