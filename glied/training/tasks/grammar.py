"""Training task of the grammar head: a CLIP's text encoder learns to recognize broken captions.

The contrastive loss against the unchanged image encoder is added, so that image-text similarity survives.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from glied import storage
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import CORRUPTIONS, GrammarHead, save_grammar
from glied.clip.model import open_clip_model, save_clip
from glied.clip.scorer import ClipScorer, load_clip
from glied.clip.text_encoder import read_texts, text_width
from glied.config_checks import check_least
from glied.data.array_cache import cached_array
from glied.data.hard_negatives import HardNegativesConfig
from glied.data.pairs import Pair, PairsConfig
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.training import steps
from glied.training.config import TrainerConfig
from glied.training.task import Row, Split
from glied.training.tasks.bad_captions import BadCaptions, BadCaptionsConfig, load_bad_captions
from glied.training.tasks.clip import both_ways, pairs_table
from glied.training.tasks.clip_images import cache_name, read_image
from glied.training.tasks.clip_model import LARGEST_SCALE
from glied.training.tasks.clip_texts import TextsConfig, all_texts, draw_text, plain, python_random
from glied.training.tasks.contrastive import contrastive_loss, refuse_micro_batches
from glied.training.tasks.corruptions import Corruptor
from glied.training.tasks.false_texts import FalseTexts, HardNegativesBySplit, accuracy_by_kind
from glied.training.tasks.grammar_accuracy import BAD, CORRECT, accuracies

log = logging.getLogger(__name__)

_KNOWN_TEXTS = 400_000
_CHUNK = 256
_UNKNOWN = -100
"""Label of tokens without a known answer, which cross-entropy ignores."""
SHARES = {"repeat": 1.5, "remove": 3.0, "duplicate": 1.5}
"""Weights with which kinds of corruption are drawn in training, where not 1: hard ones more often."""


@dataclass(frozen=True)
class GrammarBatch:
    """Captions of one step, of which the first B are correct and belong to the B images.

    Attributes:
        tokens: [n, T] int64.
        kinds: [n] int64, 0 for a correct caption, else 1 + the corruption's place in `CORRUPTIONS`; for one
            that was drawn only once, 1 + their number + the place; `BAD` for one of a captioner.
        lengths: [n] int64, words.
        images: [B, E], unit vectors.
        fits: [n, T] int64, of the last token of each word and the end token 1 where it can stand behind the
            one before it and 0 where it cannot, `_UNKNOWN` elsewhere; none in validation.
        false: hard negatives of the captions of the images; None without.
    """

    tokens: Tensor
    kinds: Tensor
    lengths: Tensor
    images: Tensor
    fits: Tensor | None = None
    false: FalseTexts | None = None


class GrammarModel(nn.Module):
    """A CLIP of which the text encoder learns, and the head on it.

    Attributes:
        fits: predicts for each word whether it can stand where it does; only used in training.
    """

    def __init__(self, clip: nn.Module, head: GrammarHead) -> None:
        """Freeze all of `clip` but its text encoder."""
        super().__init__()
        self.clip, self.head, self.fits = clip, head, nn.Linear(head.width, 2)
        self.figures: dict[str, float] = {}
        for name, parameter in clip.named_parameters():
            parameter.requires_grad_(not name.startswith(("visual.", "logit_")))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Captions [n, T] -> logits [n, 2], unit vectors [n, E] and logits of each word [n, T, 2]."""
        read = read_texts(self.clip, tokens)
        return self.head(read.pooled), F.normalize(read.projected, dim=-1), self.fits(read.words)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, as the CLIP learned it."""
        return cast(Any, self.clip).logit_scale.detach().exp().clamp(max=LARGEST_SCALE).squeeze()


@dataclass(frozen=True, kw_only=True)
class FinetuneGrammarConfig:
    """Which CLIP is finetuned, on which pairs, and how."""

    clip: ClipConfig
    """The CLIP to start from; only its text encoder changes."""
    train: PairsConfig
    """Pairs whose texts are correct captions."""
    validation: PairsConfig
    """Pairs on whose texts accuracy and retrieval are measured."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    """Which text of a pair is learned in a step."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss beside the cross-entropy of the head."""
    words_weight: float = 1.0
    """Weight of the cross-entropy of each word, whether it can stand where it does; it speeds the rest up."""
    bad_captions: BadCaptionsConfig = field(default_factory=BadCaptionsConfig)
    """Captions of a captioner that the head shall recognize as broken, too."""
    hard_negatives: HardNegativesConfig = field(default_factory=HardNegativesConfig)
    """False variants of the texts, with which images are compared in the contrastive loss: a CLIP that was
    trained with them forgets what they taught otherwise."""
    cache: str = "runs/cache"
    """Local folder for the vectors of the images, which are computed once."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        refuse_micro_batches(self.trainer)
        check_least(self, 1, "hidden")
        check_least(self, 0, "contrastive_weight", "words_weight")
        if not self.cache or not storage.is_local(self.cache):
            raise UsageError(f"cache: {self.cache!r} is no local folder: it is mapped into memory")


@dataclass(frozen=True)
class GrammarTask(FieldsOnlyPickle):
    """Learns a `GrammarModel` from a trained CLIP; implements `glied.training.task.Task`."""

    config: FinetuneGrammarConfig
    name: str = "grammar"

    @cached_property
    def _scorer(self) -> ClipScorer:
        """The CLIP before finetuning: its image vectors, tokenizer and retrieval."""
        return load_clip(self.config.clip)

    @cached_property
    def _corruptor(self) -> Corruptor:
        return Corruptor.of(_correct_texts(self.config.train.all))

    @cached_property
    def _bad(self) -> BadCaptions:
        """Bad captions whose words the CLIP knows."""
        bad = load_bad_captions(self.config.bad_captions.captions)
        known = bad.without(self._scorer.unknown_words(bad.all))
        if bad.all:
            log.info("%d of %d different bad captions have known words only", len(known.all), len(bad.all))
        return known

    @cached_property
    def _false(self) -> HardNegativesBySplit:
        return HardNegativesBySplit(self.config.hard_negatives, self.config.train, self.config.validation)

    @cached_property
    def _before(self) -> dict[str, float]:
        """Retrieval on validation with the text encoder before finetuning."""
        known = self._known(self.config.validation)
        texts = [plain(self.config.validation.all[index].texts[0]) for index in known]
        images = torch.from_numpy(np.array(self._vectors(self.config.validation)[known]))
        return both_ways(self._scorer.encode_texts(texts).cpu(), images)

    def build(self) -> GrammarModel:
        """The CLIP with an untrained head."""
        clip = open_clip_model(self.config.clip).model
        return GrammarModel(clip, GrammarHead(width=text_width(clip), hidden=self.config.hidden))

    def data(self, split: Split) -> pa.Table:
        """Rows of `index`, `image`, `texts` and `clauses`; images are encoded into the cache first.

        Pairs with words that the CLIP does not know are left out, and logged.
        """
        pairs = self.config.train if split == "train" else self.config.validation
        self._check_negatives(split)
        self._vectors(pairs)
        return pairs_table(pairs.all).take(pa.array(self._known(pairs)))

    def _check_negatives(self, split: Split) -> None:
        """Read the negatives' files before the images are encoded, which takes long."""
        self._false.of(split)
        if self.config.bad_captions.captions and not self._bad.learned:
            raise UsageError(
                f"bad_captions.captions: every caption of {self.config.bad_captions.captions} has words that "
                "this CLIP has never seen"
            )

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> GrammarBatch:
        """Draws a correct caption for each row and corrupts it: in training in one way, else in every way.

        In validation the first texts come first, then as many others of the same images.
        """
        rng = python_random(generator)
        if training:
            texts = [draw_text(row["texts"], row["clauses"], self.config.texts, rng) for row in rows]
            correct = [plain(text) for text in texts]
            broken = self._broken_once_each(correct, rng)
        else:
            texts = [row["texts"][0] for row in rows]
            correct = [plain(text) for text in texts]
            correct += [plain(rng.choice(row["texts"][1:] or row["texts"])) for row in rows]
            broken = self._broken_in_every_way(correct, rng)
        captions = [*correct, *(text for text, _ in broken)]
        numbers = [CORRECT] * len(correct) + [number for _, number in broken]
        vectors = self._vectors(self.config.train if training else self.config.validation)
        tokens = self._scorer.tokenizer([self._prompted(text) for text in captions])
        return GrammarBatch(
            tokens=tokens,
            kinds=torch.tensor(numbers),
            lengths=torch.tensor([len(text.split()) for text in captions]),
            images=torch.from_numpy(np.array(vectors[[row["index"] for row in rows]])),
            fits=self._fits(captions, numbers, tokens) if training else None,
            false=self._false.draw(
                "train" if training else "validation",
                [row["image"] for row in rows],
                texts,
                rng,
                tokenize=self._scorer.tokenizer,
                form=lambda row, text: self._prompted(plain(text)),
            ),
        )

    def _prompted(self, text: str) -> str:
        return f"{self.config.clip.prompt} {text}"

    def _broken_once_each(self, correct: Sequence[str], rng: random.Random) -> list[tuple[str, int]]:
        """A broken caption for each correct one, with its kind: corrupted, or sometimes a captioner's."""
        weights = [SHARES.get(kind, 1.0) for kind in CORRUPTIONS]
        kinds = rng.choices(range(len(CORRUPTIONS)), weights, k=len(correct))
        pairs = zip(correct, kinds, strict=True)
        broken = [(self._corruptor(text, CORRUPTIONS[kind], rng), 1 + kind) for text, kind in pairs]
        bad, share = self._bad.learned, self.config.bad_captions.share
        if not bad:
            return broken
        return [(rng.choice(bad), BAD) if rng.random() < share else one for one in broken]

    def _broken_in_every_way(self, correct: Sequence[str], rng: random.Random) -> list[tuple[str, int]]:
        """Each caption with every corruption, drawn with checks and drawn once, then unseen bad captions."""
        pairs = [(text, kind) for kind in range(len(CORRUPTIONS)) for text in correct]
        found = [(self._corruptor(text, CORRUPTIONS[kind], rng), 1 + kind) for text, kind in pairs]
        for text, kind in pairs:
            once = self._corruptor(text, CORRUPTIONS[kind], rng, once=True)
            found.append((once, 1 + len(CORRUPTIONS) + kind))
        return [*found, *((text, BAD) for text in self._bad.draw_unseen(len(correct), rng))]

    def _fits(self, captions: Sequence[str], numbers: Sequence[int], tokens: Tensor) -> Tensor:
        """`GrammarBatch.fits` of captions; all unknown where tokens cannot be assigned to words."""
        found = torch.full(tokens.shape, _UNKNOWN)
        prompt = sum(
            map(self._token_count, self.config.clip.prompt.split())
        )  # the last of them, behind the start
        for row, end, caption, number in zip(found, tokens.argmax(dim=1), captions, numbers, strict=True):
            faults = self._corruptor.faults(caption, _corruption(number))
            counts = map(self._token_count, caption.split())
            places = list(itertools.accumulate(counts, initial=prompt))
            if places[-1] + 1 == end:  # otherwise it was truncated, or the tokenizer is of another kind
                row[torch.tensor([*places[1:], int(end)])] = 1 - torch.tensor(faults).long()
        return found

    def _token_count(self, word: str) -> int:
        if word not in self._token_counts:
            encode = getattr(self._scorer.tokenizer, "encode", None)
            self._token_counts[word] = len(encode(word)) if encode else 0
        return self._token_counts[word]

    @cached_property
    def _token_counts(self) -> dict[str, int]:
        """How many tokens a word has."""
        return {}

    def loss(self, model: nn.Module, batch: GrammarBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Cross-entropy of "grammatical", that of each word, and the correct captions' contrastive loss.

        One label per caption says little about where it is broken; with a label per word the encoder learns
        several times faster which word can follow which (docs/clip.md).
        """
        assert batch.fits is not None, "a batch for training"
        false, count = batch.false, len(batch.tokens)
        tokens = batch.tokens if false is None else torch.cat((batch.tokens, false.tokens))
        logits, vectors, each = model(tokens)
        logits, each = logits[:count], each[:count]
        correct = batch.kinds == CORRECT
        grammar = F.cross_entropy(logits.float(), correct.long())
        scale = cast(GrammarModel, getattr(model, "module", model)).scale
        more = () if false is None else (vectors[count:], false.real)
        contrast = contrastive_loss(batch.images, vectors[: len(batch.images)], scale, *more)
        words = word_loss(each, batch.fits)
        loss = grammar + self.config.contrastive_weight * contrast + self.config.words_weight * words
        with torch.no_grad():
            right = ((logits[:, 1] > logits[:, 0]) == correct).float().mean()
        scalars = {"loss": loss.detach(), "grammar": grammar.detach(), "contrastive": contrast.detach()}
        scalars["words"] = words.detach()
        return loss, {**scalars, "accuracy": right}

    def validate(self, model: nn.Module, batches: Iterable[GrammarBatch]) -> dict[str, float]:
        """Accuracy by corruption and by length, the worst first, and retrieval before and after; percent."""
        grammar = cast(GrammarModel, model)
        right, kinds, lengths, images, texts = [], [], [], [], []
        hard: list[tuple[Tensor, Tensor]] = []
        for batch in batches:
            outputs = [grammar(tokens) for tokens in batch.tokens.split(_CHUNK)]
            logits = torch.cat([logits for logits, _, _ in outputs])
            right.append(((logits[:, 1] > logits[:, 0]) == (batch.kinds == CORRECT)).cpu())
            kinds.append(batch.kinds.cpu())
            lengths.append(batch.lengths.cpu())
            images.append(batch.images.cpu())
            texts.append(torch.cat([vectors for _, vectors, _ in outputs])[: len(batch.images)].cpu())
            if batch.false is not None:
                false = grammar(batch.false.tokens)[1]
                hard.append(batch.false.nearer(batch.images, texts[-1].to(false), false))
        figures = accuracies(torch.cat(right), torch.cat(kinds), torch.cat(lengths))
        after = both_ways(torch.cat(texts), torch.cat(images))
        figures |= after | {f"before_{name}": self._before[name] for name in after if name != "pool"}
        figures |= accuracy_by_kind(hard, self._false.of("validation").kinds)
        grammar.figures = figures
        return figures

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the CLIP as `ClipConfig.checkpoint` takes it, and in it the head with its figures."""
        grammar, opened = cast(GrammarModel, model), open_clip_model(self.config.clip)
        used = None if opened.used_tokens is None else opened.used_tokens.tolist()
        save_clip(folder_uri, grammar.clip, opened.model_config, used_tokens=used)
        save_grammar(folder_uri, grammar.head, grammar.figures)

    def _known(self, pairs: PairsConfig) -> list[int]:
        """The pairs of which the CLIP knows all words, by number."""
        unknown = set(self._scorer.unknown_words(all_texts(pairs.all)))
        known = [number for number, pair in enumerate(pairs.all) if not unknown & _words(pair)]
        if unknown:
            words, left_out = ", ".join(sorted(unknown)[:20]), len(pairs.all) - len(known)
            message = f"{pairs.pairs}: this CLIP has never seen the words {words}"
            if not known:
                raise UsageError(f"{message}; every pair has some")
            log.warning("%s; %d of %d pairs are left out", message, left_out, len(pairs.all))
        return known

    def _vectors(self, pairs: PairsConfig) -> NDArray[np.float32]:
        """Unit vectors of all images of a split, [N, E]; the image encoder does not change."""
        return cached_array(
            self.config.cache,
            cache_name("vectors", pairs.digest, self._scorer.fingerprint),
            shape=(len(pairs.all), self._scorer.size),
            dtype=np.float32,
            fill=lambda array: self._fill(array, pairs.all),
        )

    def _fill(self, array: NDArray, pairs: Sequence[Pair]) -> None:
        for start in range(0, len(pairs), _CHUNK):
            images = [read_image(pair.image) for pair in pairs[start : start + _CHUNK]]
            array[start : start + len(images)] = self._scorer.encode_images(images).cpu().numpy()


def word_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """Cross-entropy over the words with a label: logits [n, T, 2] and `GrammarBatch.fits`; 0 for none."""
    summed = F.cross_entropy(
        logits.flatten(0, 1).float(), fits.flatten(), ignore_index=_UNKNOWN, reduction="sum"
    )
    return summed / (fits != _UNKNOWN).sum().clamp(min=1)


def _corruption(number: int) -> str | None:
    """The corruption of a kind in training; None for a correct caption. A captioner's are judged as loops."""
    return None if number == CORRECT else "loop" if number == BAD else CORRUPTIONS[number - 1]


def _words(pair: Pair) -> set[str]:
    return {word for text in all_texts([pair]) for word in text.split()}


def _correct_texts(pairs: Sequence[Pair]) -> Iterable[str]:
    """What `draw_text` may return, as far as can be listed: all texts, and some selections of clauses."""
    rng = python_random(steps.generator("correct texts"))
    selections = TextsConfig(clauses=1.0)
    each = 1 + max(len(pair.texts) for pair in pairs)
    for pair in pairs[: max(1, _KNOWN_TEXTS // each)]:
        for text in (*pair.texts, draw_text(pair.texts, pair.clauses, selections, rng)):
            yield plain(text)
