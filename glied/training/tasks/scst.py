"""Training task of self-critical sequence training (Rennie et al. 2017): captions are sampled and rewarded.

With `loss.name` dico, DiCO's loss takes the place of the self-critical one.

An image's captions are sampled without gradients and scored again with teacher forcing, so that the memory is
that of a cross-entropy step. Both run without dropout, so that the scored distribution is the one that was
sampled from. On a GPU the scoring runs without synchronization while the CPU computes the rewards.

Shapes: B images, S samples of each, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from glied import checkpoint_files
from glied.captioner.captioner import Captioner
from glied.captioner.decode import NEVER_WORDS, Hypothesis, decode
from glied.captioner.familiarity import Familiarity
from glied.captioner.inference import freeze
from glied.captioner.model import CaptioningModel
from glied.clock import Clock
from glied.data import features
from glied.data.extractor_fingerprint import check_trained_on
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.regions import RegionBatch
from glied.rewards.advantage import decoupled_advantage, greedy_advantage, leave_one_out_advantage
from glied.rewards.config import LIKELIHOOD
from glied.rewards.reward import Captions
from glied.rewards.reward_loader import RewardLoader
from glied.rewards.weighted_sum import Rewards, WeightedSum
from glied.text.vocabulary import EOS, PAD
from glied.training.history import SHOWN_SAMPLES, Sample
from glied.training.task import WEIGHT, Row, Split
from glied.training.tasks.familiarity import familiarity_of
from glied.training.tasks.image_inputs import TopWords, read_images, thin_out
from glied.training.tasks.losses import batch_normalized, entropy, preference_loss, self_critical_loss
from glied.training.tasks.samples import Samples, caption_figures, complete, sample_tensors
from glied.training.tasks.scst_config import TrainScstConfig
from glied.vision.attributes import AttributePredictor, load_attributes


@dataclass(frozen=True)
class ImageBatch:
    """Images of one step.

    Attributes:
        names: of the B images.
        regions: of them.
        attributes: [B, N] int64 word ids.
        attribute_mask: [B, N], True where real.
        seeds: one for the samples of each image.
    """

    names: list[str]
    regions: RegionBatch
    attributes: Tensor
    attribute_mask: Tensor
    seeds: list[int]


@dataclass(frozen=True)
class ScstTask(FieldsOnlyPickle):
    """Trains a captioner further with a reward; implements `glied.training.task.Task`."""

    config: TrainScstConfig
    start_digest: str = ""
    """Of the checkpoint to start from: a run is not resumed with other weights or another vocabulary."""
    name: str = "scst"

    @classmethod
    def of(cls, config: TrainScstConfig) -> ScstTask:
        """The task with the digest of its start; raises as `checkpoint_files.inspect`."""
        return cls(config=config, start_digest=checkpoint_files.inspect(config.start).digest)

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner that training starts from."""
        captioner = Captioner.load(self.config.start)
        if self.start_digest not in ("", captioner.digest):
            raise UsageError(f"{self.config.start} is not the checkpoint that this run was started with")
        return captioner

    @cached_property
    def predictor(self) -> AttributePredictor:
        """The attribute predictor, frozen."""
        return load_attributes(self.config.attributes).eval().requires_grad_(False)

    @cached_property
    def _made(self) -> dict[str, Any]:
        """Rewards by split, their loader, DiCO's reference; loaded on first use, in the training process."""
        return {}

    def rewards(self, split: Split, device: torch.device | str = "cpu") -> WeightedSum:
        """The rewards of a split; raises as `RewardLoader.load`."""
        if split not in self._made:
            if "loader" not in self._made:
                self._made["loader"] = self._loader(torch.device(device))
            self._made[split] = self._made["loader"].load(getattr(self.config, split))
        return self._made[split]

    def _loader(self, device: torch.device) -> RewardLoader:
        return RewardLoader(
            self.config.reward, self.captioner.vocabulary, self.config.train.references, device
        )

    def check(self) -> None:
        """Loads everything that a step or a validation needs, once, to find what is missing.

        Raises:
            UsageError: something is missing, or belongs to something else.
        """
        # On a copy, so that nothing loaded here is sent to the workers with the task.
        copy.deepcopy(self)._check()

    def _check(self) -> None:
        features.check_same_extractor([*self.config.train.stores, *self.config.validation.stores])
        sizes = {
            self.config.start: self.captioner.model.feature_size,
            self.config.attributes: self.predictor.feature_size,
            self.config.train.features: self.config.train.feature_size(),
            self.config.validation.features: self.config.validation.feature_size(),
        }
        for what, trained_on in (
            (f"start: {self.config.start}", self.captioner.extractor),
            (f"attributes: {self.config.attributes}", self.predictor.extractor),
        ):
            check_trained_on(what, trained_on, self.config.train.extractor, self.config.train.features)
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{uri} {size}" for uri, size in sizes.items())
            raise UsageError(f"these do not have the same size of region features: {found}")
        loader = self._loader(torch.device("cpu"))
        for data in (self.config.train, self.config.validation):
            loader.check(data)

    def build(self) -> CaptioningModel:
        """The captioner's model."""
        return copy.deepcopy(self.captioner.model)

    @cached_property
    def _known_words(self) -> dict[bool, TopWords]:
        """Of training (True) and validation images; the predictor is frozen, so it reads each image once."""
        return {True: {}, False: {}}

    def data(self, split: Split) -> list[str]:
        """The Parquet files of the feature store."""
        return (self.config.train if split == "train" else self.config.validation).paths()

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> ImageBatch:
        """Reads regions, predicts attributes, and draws the seeds of the samples."""
        data = self.config.train if training else self.config.validation
        present = data.present(rows)
        captioner = self.captioner
        count = captioner.attribute_count if captioner.model.config.reads_attributes else 0
        known = self._known_words[training]
        regions, attributes, mask = read_images(present, self.predictor, captioner.vocabulary, count, known)
        seeds = torch.randint(2**62, (len(present),), generator=generator).tolist()
        if training and self.config.region_dropout:
            regions = thin_out(regions, self.config.region_dropout, generator)
        return ImageBatch([data.name(row["id"]) for row in present], regions, attributes, mask, seeds)

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a batch's samples; logs rewards, figures of the samples, seconds."""
        clock = Clock()
        with clock.measure("draw"), without_dropout(model):
            samples = self.draw(cast(CaptioningModel, getattr(model, "module", model)), batch)
        with clock.measure("score"):
            log_probabilities, targets = self._rescore(model, batch, samples.sampled)
            mask = targets != PAD
            chosen = log_probabilities.gather(1, targets[mask][:, None]).squeeze(1)
        with clock.measure("reward"):
            reference = self._by_reference(batch, samples.hypotheses) if self._needs_reference else None
            rewards = self._reward("train", batch, samples.hypotheses, reference)
            advantages = self._advantages(rewards, mask.device)
        figures = self._figures(rewards, samples, advantages)
        if self.config.loss.name == "scst":
            loss, figures[WEIGHT] = self_critical_loss(chosen, advantages, mask), mask.sum()
        else:
            assert reference is not None
            ratios = summed(chosen, mask) - reference[:, :-1]
            settings = self.config.loss
            loss = preference_loss(ratios, advantages, beta=settings.beta, temperature=settings.temperature)
            figures["divergence"] = ratios.detach().mean()
            figures[WEIGHT] = len(mask)
        figures |= {f"seconds_{name}": spent for name, spent in clock.seconds.items()}
        figures["entropy"] = entropy(log_probabilities.detach())
        return loss, {"loss": loss.detach(), **figures}

    @property
    def _needs_reference(self) -> bool:
        return bool(self.config.reward.likelihood) or self.config.loss.name == "dico"

    def _reward(
        self,
        split: Split,
        batch: ImageBatch,
        hypotheses: Sequence[Sequence[Hypothesis]],
        reference: Tensor | None,
    ) -> Rewards:
        """The rewards [B, S] of captions, given their log-probabilities by the captioner to start from."""
        known = {}
        if self.config.reward.likelihood:
            assert reference is not None
            lengths = [[max(1, len(one.tokens) + one.finished) for one in image] for image in hypotheses]
            known[LIKELIHOOD] = reference.cpu() / torch.tensor(lengths)
        captions = self.captions(batch.names, hypotheses)
        return self.rewards(split, batch.regions.features.device)(captions, known)

    @torch.no_grad()
    def _by_reference(self, batch: ImageBatch, hypotheses: Sequence[Sequence[Hypothesis]]) -> Tensor:
        """Log-probabilities [B, S] of captions by the captioner to start from."""
        reference = self._reference(batch.regions.features.device)
        table, targets = self._rescore(reference, batch, [one for image in hypotheses for one in image])
        mask = targets != PAD
        return summed(table.gather(1, targets[mask][:, None]).squeeze(1), mask)

    def _reference(self, device: torch.device) -> CaptioningModel:
        """A frozen copy of the captioner to start from, also in a resumed run."""
        if "reference" not in self._made:
            self._made["reference"] = self.build().eval().requires_grad_(False).to(device)
        return self._made["reference"]

    @torch.inference_mode()
    def draw(self, model: CaptioningModel, batch: ImageBatch) -> Samples:
        """Samples the captions of a batch, and searches the greedy ones.

        On a CPU always in float32: the frozen model's layers are, and bfloat16 is slow for single words. The
        frozen copy shares the model's tensors and takes 2.5 ms; packing its weights for a CPU takes 10 ms
        at the demo world's size, which decoding saves many times over.
        """
        sampling = self.config.sampling
        half = torch.is_autocast_enabled(kind := batch.regions.features.device.type) and kind != "cpu"
        with torch.autocast(kind, enabled=half):
            frozen = freeze(model, tables=False)
            memory = frozen.encode(batch.regions, batch.attributes, batch.attribute_mask)
            samples = decode(frozen, memory, sampling.drawing, seeds=batch.seeds)
            greedy = decode(frozen, memory, sampling.greedy)
        pairs = zip(samples, greedy, strict=True)
        return Samples([[*complete(some, sampling.samples), *complete(best, 1)] for some, best in pairs])

    def _rescore(
        self, model: nn.Module, batch: ImageBatch, hypotheses: Sequence[Hypothesis]
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [M, V] at the M tokens of captions, with gradients, and targets [B, S, T]."""
        device = batch.regions.features.device
        count = len(hypotheses) // len(batch.names)
        inputs, targets = (one.to(device) for one in sample_tensors(hypotheses, count))
        with nullcontext() if self.config.sampling.dropout else without_dropout(model):
            logits = model(batch.regions, batch.attributes, batch.attribute_mask, inputs, targets != PAD)
        # Words that are never drawn are excluded here too: otherwise they would take all the probability.
        never = torch.tensor(NEVER_WORDS, device=device)
        return logits.index_fill(-1, never, -math.inf).log_softmax(dim=-1, dtype=torch.float32), targets

    def captions(self, names: Sequence[str], hypotheses: Sequence[Sequence[Hypothesis]]) -> Captions:
        """Hypotheses as rewards read them."""
        decode_words = self.captioner.vocabulary.decode
        return Captions(
            names,
            [[(*one.tokens, EOS) if one.finished else one.tokens for one in image] for image in hypotheses],
            [[" ".join(decode_words(one.tokens)) for one in image] for image in hypotheses],
        )

    def _advantages(self, rewards: Rewards, device: torch.device) -> Tensor:
        """Of [B, S + 1] captions, the greedy one last -> [B, S]."""
        samples, greedy = rewards.total[:, :-1], rewards.total[:, -1]
        if self.config.sampling.baseline == "greedy":
            return greedy_advantage(samples, greedy)
        if self.config.sampling.baseline == "leave_one_out":
            return leave_one_out_advantage(samples)
        parts = {name: part[:, :-1] for name, part in rewards.parts.items()}
        return batch_normalized(decoupled_advantage(parts, self.config.reward.weights).to(device))

    def _figures(self, rewards: Rewards, samples: Samples, advantages: Tensor) -> dict[str, float | Tensor]:
        """What is logged of a step; reward, length and so on are those of the samples."""
        sampled = rewards.total[:, :-1]
        figures: dict[str, float | Tensor] = {"reward": sampled.mean()}
        figures |= {f"reward_{name}": part[:, :-1].mean() for name, part in rewards.parts.items()}
        figures["greedy"] = rewards.total[:, -1].mean()
        figures["baseline"] = (sampled - advantages.to(sampled)).mean()
        figures |= caption_figures(samples.sampled)
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
        hypotheses: list[list[Hypothesis]] = []
        totals, parts = [], []
        for batch in batches:
            memory = captioner.encode(batch.regions, batch.attributes, batch.attribute_mask)
            best = [complete(image, 1) for image in decode(captioner, memory, self.config.decoding)]
            reference = self._by_reference(batch, best) if self.config.reward.likelihood else None
            rewards = self._reward("validation", batch, best, reference)
            totals.append(rewards.total)
            parts.append(rewards.parts)
            names += batch.names
            hypotheses += best
        texts = [text for (text,) in self.captions(names, hypotheses).texts]
        figures = {"reward": float(torch.cat(totals).mean())}
        for name in parts[0]:
            figures[f"reward_{name}"] = float(torch.cat([part[name] for part in parts]).mean())
        truths = {name: [name] for name in names[:SHOWN_SAMPLES]}
        if self.config.validation.captions:
            truths = {name: self.config.validation.references[name] for name in names}
            figures["cider"] = cider(dict(zip(names, texts, strict=True)), truths)
        figures |= caption_figures([one for (one,) in hypotheses])
        shown = zip(names[:SHOWN_SAMPLES], texts, strict=False)
        return figures, [Sample(text, truths[name][0]) for name, text in shown]

    @cached_property
    def _familiarity(self) -> Familiarity | None:
        """Computed when the captioner to start from has none."""
        return familiarity_of(self.config.train.features, self.config.validation.features)

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the captioner in half precision, as it ships."""
        start = self.captioner
        trained = Captioner(
            cast(CaptioningModel, model),
            start.vocabulary,
            attribute_count=start.attribute_count,
            extractor=self.config.train.extractor,
            familiarity=start.familiarity or self._familiarity,
        )
        trained.save(folder_uri, half=True)


def summed(values: Tensor, mask: Tensor) -> Tensor:
    """Sum values of tokens [M] over captions, given where the tokens are [B, S, T]: [B, S]."""
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values).sum(dim=-1)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; gradients flow all the same."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
