"""Training task of the captioner: cross-entropy on reference captions over stored region features.

A row is an image with all its captions: the image is encoded once, and its captions share the encoder output.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.familiarity import Familiarity
from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.config_checks import check_least, check_shares
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.extractor_fingerprint import check_trained_on
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.regions import RegionBatch
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import BOS, EOS, PAD, SPECIAL, Vocabulary, load_words
from glied.training.config import TrainerConfig
from glied.training.history import SHOWN_SAMPLES, Sample
from glied.training.task import WEIGHT, Row, Split
from glied.training.tasks.familiarity import familiarity_of
from glied.training.tasks.image_inputs import TopWords, read_images, thin_out
from glied.training.tasks.losses import word_cross_entropy
from glied.vision.attributes import AttributePredictor, load_attributes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Which words the captioner knows and sees."""

    vocabulary: str = ""
    """vocabulary.json (path or URI) of jobs/prepare_coco.py; empty counts the training captions' words."""
    minimum_count: int = 5
    """Without `vocabulary`: words that occur less often in the training captions are unknown."""
    max_length: int = 20
    """Longer training captions are truncated after this many words."""
    attributes: str
    """Checkpoint (folder or URI) of the attribute predictor."""
    attribute_count: int = 49
    """N, the number of most probable attribute words that the captioner sees."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_least(self, 1, "minimum_count", "max_length", "attribute_count", key="words")


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
class TrainCaptionerConfig:
    """Which captioner is trained with cross-entropy, on which images, and how."""

    train: CaptionedRegions
    """Training images."""
    validation: CaptionedRegions
    """Images whose CIDEr selects the best checkpoint."""
    words: WordsConfig
    """Vocabulary and attributes."""
    model: CaptionerConfig
    """Architecture."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """How validation captions are searched."""
    label_smoothing: float = 0.1
    """Share of the target's probability that is spread over all words."""
    scheduled_sampling: float = 0.0
    """Share of words that the captioner reads from itself; rises evenly from 0 to this over the training."""

    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see, against learning by heart."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_shares(self, "label_smoothing", "scheduled_sampling", "region_dropout")


@dataclass(frozen=True)
class CaptionerTask(FieldsOnlyPickle):
    """Learns a `CaptioningModel` with cross-entropy; implements `glied.training.task.Task`."""

    config: TrainCaptionerConfig
    name: str = "captioner"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the config's file, or of the training captions; raises as `load_words`."""
        if self.config.words.vocabulary:
            return Vocabulary(load_words(self.config.words.vocabulary))
        every = (caption for captions in self.config.train.references.values() for caption in captions)
        return Vocabulary.from_captions(every, self.config.words.minimum_count)

    def check_words(self) -> None:
        """Warns where the vocabulary has fewer attribute words than `words.attribute_count`.

        Raises:
            UsageError: it has no words at all, or none of those that the predictor knows.
        """
        if len(self.vocabulary) == len(SPECIAL):
            raise UsageError(
                f"no word of {self.config.train.captions} occurs {self.config.words.minimum_count} times: "
                "lower words.minimum_count, or give more captions"
            )
        if not self.config.model.reads_attributes:
            return
        known, wanted = (
            sum(word in self.vocabulary for word in self.predictor.words),
            self.config.words.attribute_count,
        )
        if not known:
            raise UsageError(
                f"words.attributes: {self.config.words.attributes} knows no word of the vocabulary"
            )
        if known < wanted:
            log.warning(
                "words.attribute_count: %d are asked for, the vocabulary has %d of the words of %s",
                wanted, known, self.config.words.attributes,
            )  # fmt: skip

    @cached_property
    def predictor(self) -> AttributePredictor:
        """The attribute predictor, frozen."""
        return load_attributes(self.config.words.attributes).eval().requires_grad_(False)

    @cached_property
    def _known_words(self) -> dict[bool, TopWords]:
        """Of training (True) and validation images; the predictor is frozen, so it reads each image once."""
        return {True: {}, False: {}}

    def build(self) -> CaptioningModel:
        """The untrained model; the attribute predictor, which reads the same features, knows their size."""
        feature_size = self.predictor.feature_size
        return build_model(self.config.model, feature_size=feature_size, vocabulary_size=len(self.vocabulary))

    def data(self, split: Split) -> list[str]:
        """The Parquet files of the feature store.

        Raises:
            UsageError: as `features.paths`, `CaptionedRegions.check` and `check_words`; the attribute
                predictor was trained on other regions.
        """
        source = self.config.train if split == "train" else self.config.validation
        if split == "train":
            features.check_same_extractor([self.config.train.features, self.config.validation.features])
        source.check()
        if split == "train":
            attributes = f"words.attributes: {self.config.words.attributes}"
            check_trained_on(attributes, self.predictor.extractor, source.extractor, source.features)
            self.check_words()
        return source.paths()

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> CaptionBatch:
        """Read regions, predict attributes, look captions up and turn them into ids."""
        pairs = (self.config.train if training else self.config.validation).pair(rows)
        references = [captions for _, captions in pairs]
        count = self.config.words.attribute_count if self.config.model.reads_attributes else 0
        stored = [row for row, _ in pairs]
        regions, attributes, mask = read_images(
            stored, self.predictor, self.vocabulary, count, self._known_words[training]
        )
        if training and self.config.region_dropout:
            regions = thin_out(regions, self.config.region_dropout, generator)
        encoded = [
            [self.vocabulary.encode(tokenize(text)[: self.config.words.max_length]) for text in one]
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
        mask, inputs, share = batch.targets != PAD, batch.inputs, self.config.scheduled_sampling * done
        if share > 0:
            with torch.no_grad():
                first = getattr(model, "module", model)
                logits = first(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)
                inputs = mix_inputs(inputs, logits, mask, share)
        logits = model(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)
        targets = batch.targets[mask]
        with torch.no_grad():
            accuracy = (logits.argmax(dim=-1) == targets).float().mean()
        loss = word_cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
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
            for found in decode(captioner, memory, self.config.decoding):
                hypotheses.append(" ".join(self.vocabulary.decode(found[0].tokens)) if found else "")
            references += batch.references
        numbered = {str(image): text for image, text in enumerate(hypotheses)}
        truths = {str(image): texts for image, texts in enumerate(references)}
        metrics = {"cider": cider(numbered, truths), "loss": total / max(words, 1.0)}
        shown = zip(hypotheses[:SHOWN_SAMPLES], references, strict=False)
        return metrics, [Sample(text, known[0]) for text, known in shown]

    @cached_property
    def _familiarity(self) -> Familiarity | None:
        return familiarity_of(self.config.train.features, self.config.validation.features)

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the captioner in half precision, as it ships."""
        captioner = Captioner(
            cast(CaptioningModel, model),
            self.vocabulary,
            attribute_count=self.config.words.attribute_count,
            extractor=self.config.train.extractor,
            familiarity=self._familiarity,
        )
        captioner.save(folder_uri, half=True)


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
