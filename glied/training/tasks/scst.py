"""Training task of self-critical sequence training (Rennie et al. 2017): captions are sampled and rewarded.

An image's captions are drawn without gradients and scored again with teacher forcing, so that memory is that
of a cross-entropy step. Both run without dropout: what is scored is what was drawn from. The scoring is
queued before the rewards are computed, so on a GPU rewards on the CPU cost no time while it runs.

Shapes: B images, S samples of each, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import NEVER_WORDS, Hypothesis, decode
from glied.captioner.familiarity import Familiarity
from glied.captioner.inference import freeze
from glied.captioner.model import CaptioningModel
from glied.data import features
from glied.data.captioned_regions import RewardedRegions
from glied.data.extractor_fingerprint import check_trained_on
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.regions import RegionBatch
from glied.rewards.advantage import greedy_advantage, leave_one_out_advantage
from glied.rewards.config import RewardConfig
from glied.rewards.reward import Captions
from glied.rewards.reward_loader import RewardLoader
from glied.rewards.weighted_sum import Rewards, WeightedSum
from glied.text.repetition import repeated_share
from glied.text.vocabulary import BOS, EOS, PAD
from glied.training.history import Sample
from glied.training.task import WEIGHT, Row, Split
from glied.training.tasks.captioner import SHOWN, TopWords, read_images, thin_out
from glied.training.tasks.familiarity import familiarity_of
from glied.training.tasks.losses import entropy, self_critical_loss
from glied.vision.attributes import AttributePredictor, load_attributes

Baseline = Literal["greedy", "leave_one_out"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What is sampled for an image, and what its rewards are compared with."""

    samples: int = 5
    """S, captions drawn for an image."""
    max_length: int = 20
    """Most words of a caption; it is cut there."""
    baseline: Baseline = "greedy"
    """What rewards are compared with: the image's greedy caption, or the mean of its other samples."""
    dropout: bool = False
    """Score the samples with the captioner's dropout, against learning few training images by heart. The
    distribution is then a little different from the one that was drawn from."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        for name in ("samples", "max_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"sampling.{name}: {getattr(self, name)} is not at least 1")
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise UsageError(
                "sampling.samples: leave_one_out needs at least 2, it compares each with the others"
            )

    @property
    def drawing(self) -> DecodingConfig:
        """How samples are drawn."""
        return DecodingConfig(method="sample", n_best=self.samples, max_length=self.max_length, min_length=0)

    @property
    def greedy(self) -> DecodingConfig:
        """How the greedy caption is found."""
        return DecodingConfig(beam_size=1, max_length=self.max_length, min_length=0)


@dataclass(frozen=True)
class ImageBatch:
    """Images of one step.

    Attributes:
        names: of the B images.
        regions: of them.
        attributes: [B, N] int64 word ids.
        attribute_mask: [B, N], True where real.
        seeds: what the samples of each image are drawn with.
    """

    names: list[str]
    regions: RegionBatch
    attributes: Tensor
    attribute_mask: Tensor
    seeds: list[int]


@dataclass(frozen=True)
class Drawn:
    """Captions of B images: S samples of each, then the greedy caption."""

    hypotheses: list[list[Hypothesis]]

    @property
    def samples(self) -> list[Hypothesis]:
        """All B * S samples."""
        return [one for image in self.hypotheses for one in image[:-1]]


@dataclass(frozen=True, kw_only=True)
class ScstTask(FieldsOnlyPickle):
    """Goes on training a captioner with a reward; implements `glied.training.task.Task`."""

    start: str
    """Checkpoint of the captioner to start from."""
    start_digest: str = ""
    """Of that checkpoint: a run is not resumed with other weights or another vocabulary."""
    attributes: str
    train: RewardedRegions
    validation: RewardedRegions
    reward: RewardConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see."""
    name: str = "scst"

    @cached_property
    def captioner(self) -> Captioner:
        """What training starts from; its vocabulary has the digest that it was saved with."""
        captioner = Captioner.load(self.start)
        if self.start_digest not in ("", captioner.digest):
            raise UsageError(f"{self.start} is not the checkpoint that this run was started with")
        return captioner

    @cached_property
    def predictor(self) -> AttributePredictor:
        """The attribute predictor, frozen."""
        return load_attributes(self.attributes).eval().requires_grad_(False)

    @cached_property
    def _made(self) -> dict[str, Any]:
        """Rewards by split, and their loader: made when first asked for, where the training runs."""
        return {}

    def rewards(self, split: Split, device: torch.device | str = "cpu") -> WeightedSum:
        """The rewards of a split; raises as `RewardLoader.load`."""
        if split not in self._made:
            if "loader" not in self._made:
                self._made["loader"] = self._loader(torch.device(device))
            self._made[split] = self._made["loader"].load(getattr(self, split))
        return self._made[split]

    def _loader(self, device: torch.device) -> RewardLoader:
        return RewardLoader(self.reward, self.captioner.vocabulary, self.train.references, device)

    def check(self) -> None:
        """Load everything that a step or a validation needs, once.

        Raises:
            UsageError: something is missing, or belongs to something else.
        """
        # A copy: what is loaded here would otherwise travel to the workers with the task.
        copy.deepcopy(self)._check()

    def _check(self) -> None:
        features.check_same_extractor([*self.train.stores, *self.validation.stores])
        sizes = {
            self.start: self.captioner.model.feature_size,
            self.attributes: self.predictor.feature_size,
            self.train.features: self.train.feature_size(),
            self.validation.features: self.validation.feature_size(),
        }
        for what, trained_on in (
            (f"start: {self.start}", self.captioner.extractor),
            (f"attributes: {self.attributes}", self.predictor.extractor),
        ):
            check_trained_on(what, trained_on, self.train.extractor, self.train.features)
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{uri} {size}" for uri, size in sizes.items())
            raise UsageError(f"these do not have the same size of region features: {found}")
        loader = self._loader(torch.device("cpu"))
        for data in (self.train, self.validation):
            loader.check(data)

    def build(self) -> CaptioningModel:
        """The captioner's model."""
        return copy.deepcopy(self.captioner.model)

    @cached_property
    def _known_words(self) -> dict[bool, TopWords]:
        """Of training and validation images; the predictor is frozen, so each image is looked at once."""
        return {True: {}, False: {}}

    def data(self, split: Split) -> list[str]:
        """The Parquet files of the feature store."""
        return (self.train if split == "train" else self.validation).paths()

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> ImageBatch:
        """Read regions, predict attributes, and fix what the samples are drawn with."""
        data = self.train if training else self.validation
        present = data.present(rows)
        captioner = self.captioner
        count = captioner.attribute_count if captioner.model.config.reads_attributes else 0
        known = self._known_words[training]
        regions, attributes, mask = read_images(present, self.predictor, captioner.vocabulary, count, known)
        seeds = torch.randint(2**62, (len(present),), generator=generator).tolist()
        if training and self.region_dropout:
            regions = thin_out(regions, self.region_dropout, generator)
        return ImageBatch([data.name(row["id"]) for row in present], regions, attributes, mask, seeds)

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The self-critical loss of a batch's samples; logs rewards, figures of the samples, seconds."""
        clock = _Clock()
        with without_dropout(model):
            drawn = self.draw(cast(CaptioningModel, getattr(model, "module", model)), batch)
        clock.lap("draw")
        device = batch.regions.features.device
        with nullcontext() if self.sampling.dropout else without_dropout(model):
            inputs, targets = (t.to(device) for t in sample_tensors(drawn.samples, self.sampling.samples))
            mask = targets != PAD
            logits = model(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)  # [M, V]
        # The distribution that was drawn from: else the words that are never drawn take all probability.
        never = torch.tensor(NEVER_WORDS, device=device)
        log_probabilities = logits.index_fill(-1, never, -math.inf).log_softmax(dim=-1, dtype=torch.float32)
        chosen = log_probabilities.gather(1, targets[mask][:, None]).squeeze(1)
        clock.lap("score")
        rewards = self.rewards("train", device)(self.captions(batch.names, drawn.hypotheses))
        advantages = self._advantages(rewards.total)
        loss = self_critical_loss(chosen, advantages, mask)
        clock.lap("reward")
        figures = self._figures(rewards, drawn, advantages)
        figures["entropy"] = entropy(log_probabilities.detach())
        return loss, {"loss": loss.detach(), **figures, **clock.seconds, WEIGHT: mask.sum()}

    @torch.inference_mode()
    def draw(self, model: CaptioningModel, batch: ImageBatch) -> Drawn:
        """Sample the captions of a batch, and find the greedy ones.

        On a CPU always in float32: the frozen model's layers are, and bfloat16 is slow for single words.
        """
        half = torch.is_autocast_enabled(kind := batch.regions.features.device.type) and kind != "cpu"
        with torch.autocast(kind, enabled=half):
            frozen = freeze(model, tables=False)
            memory = frozen.encode(batch.regions, batch.attributes, batch.attribute_mask)
            samples = decode(frozen, memory, self.sampling.drawing, seeds=batch.seeds)
            greedy = decode(frozen, memory, self.sampling.greedy)
        samples = [_complete(one, self.sampling.samples) for one in samples]
        greedy = [_complete(one, 1) for one in greedy]
        return Drawn([[*drawn, *best] for drawn, best in zip(samples, greedy, strict=True)])

    def captions(self, names: Sequence[str], hypotheses: Sequence[Sequence[Hypothesis]]) -> Captions:
        """Hypotheses as rewards read them."""
        decode_words = self.captioner.vocabulary.decode
        return Captions(
            names,
            [[(*one.tokens, EOS) if one.finished else one.tokens for one in image] for image in hypotheses],
            [[" ".join(decode_words(one.tokens)) for one in image] for image in hypotheses],
        )

    def _advantages(self, rewards: Tensor) -> Tensor:
        """[B, S + 1], the greedy caption last -> [B, S]."""
        samples, greedy = rewards[:, :-1], rewards[:, -1]
        if self.sampling.baseline == "greedy":
            return greedy_advantage(samples, greedy)
        return leave_one_out_advantage(samples)

    def _figures(self, rewards: Rewards, drawn: Drawn, advantages: Tensor) -> dict[str, float | Tensor]:
        """What is logged of a step; reward, length and so on are those of the samples."""
        samples = rewards.total[:, :-1]
        figures: dict[str, float | Tensor] = {"reward": samples.mean()}
        figures |= {f"reward_{name}": part[:, :-1].mean() for name, part in rewards.parts.items()}
        figures["greedy"] = rewards.total[:, -1].mean()
        figures["baseline"] = (samples - advantages).mean()
        figures |= caption_figures(drawn.samples)
        return figures | {f"seconds_{name}": spent for name, spent in rewards.seconds.items()}

    def validate(self, model: nn.Module, batches: Iterable[ImageBatch]) -> dict[str, float]:
        """The reward of decoded captions, its parts, figures of the captions; CIDEr x 100 with references."""
        return self.validate_and_show(model, batches)[0]

    def validate_and_show(
        self, model: nn.Module, batches: Iterable[ImageBatch]
    ) -> tuple[dict[str, float], list[Sample]]:
        """As `validate`, with the captions of the first images."""
        captioner = cast(CaptioningModel, model)
        names: list[str] = []
        found: list[list[Hypothesis]] = []
        totals, parts = [], []
        for batch in batches:
            memory = captioner.encode(batch.regions, batch.attributes, batch.attribute_mask)
            best = [_complete(image, 1) for image in decode(captioner, memory, self.decoding)]
            rewards = self.rewards("validation", batch.regions.features.device)(
                self.captions(batch.names, best)
            )
            totals.append(rewards.total)
            parts.append(rewards.parts)
            names += batch.names
            found += best
        texts = [text for (text,) in self.captions(names, found).texts]
        figures = {"reward": float(torch.cat(totals).mean())}
        for name in parts[0]:
            figures[f"reward_{name}"] = float(torch.cat([part[name] for part in parts]).mean())
        truths = {name: [name] for name in names[:SHOWN]}
        if self.validation.captions:
            truths = {name: self.validation.references[name] for name in names}
            figures["cider"] = cider(dict(zip(names, texts, strict=True)), truths)
        figures |= caption_figures([one for (one,) in found])
        shown = zip(names[:SHOWN], texts, strict=False)
        return figures, [Sample(text, truths[name][0]) for name, text in shown]

    @cached_property
    def _familiarity(self) -> Familiarity | None:
        """For a start that has none."""
        return familiarity_of(self.train.features, self.validation.features)

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the captioner in half precision, as it ships."""
        start = self.captioner
        trained = Captioner(
            cast(CaptioningModel, model),
            start.vocabulary,
            attribute_count=start.attribute_count,
            extractor=self.train.extractor,
            familiarity=start.familiarity or self._familiarity,
        )
        trained.save(folder_uri, half=True)


def _complete(hypotheses: Sequence[Hypothesis], count: int) -> list[Hypothesis]:
    """The first `count`; decoding finds none where probabilities are not finite, as the loss then is."""
    return [*hypotheses, *[Hypothesis((), -math.inf)] * count][:count]


def sample_tensors(samples: Sequence[Hypothesis], count: int) -> tuple[Tensor, Tensor]:
    """B * S samples -> inputs and targets [B, S, T] int64 for teacher forcing; S is `count`.

    The end token is a target of a sample that ended, and not of one that was cut; `PAD` is no token.
    """
    length = max(len(one.tokens) + one.finished for one in samples)
    targets = [[*one.tokens, EOS][: len(one.tokens) + one.finished] for one in samples]
    padded = torch.tensor([words + [PAD] * (length - len(words)) for words in targets])
    inputs = torch.cat((torch.full((len(padded), 1), BOS), padded[:, :-1]), dim=1)
    inputs.masked_fill_(padded == PAD, PAD)
    return inputs.view(-1, count, length), padded.view(-1, count, length)


def caption_figures(hypotheses: Sequence[Hypothesis]) -> dict[str, float]:
    """Mean number of words; shares of captions that repeat a bigram, and that were cut for their length."""
    count = len(hypotheses)
    return {
        "length": sum(len(one.tokens) for one in hypotheses) / count,
        "repeated_bigrams": sum(repeated_share([*map(str, one.tokens)], 2) > 0 for one in hypotheses) / count,
        "cut": sum(not one.finished for one in hypotheses) / count,
    }


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; gradients flow all the same."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class _Clock:
    """Seconds between laps, as the CPU sees them: work that a GPU has queued is not waited for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._mark = time.perf_counter()

    def lap(self, name: str) -> None:
        """The time since the last lap was spent on `name`."""
        now = time.perf_counter()
        self.seconds[f"seconds_{name}"] = now - self._mark
        self._mark = now
