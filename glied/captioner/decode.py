"""Greedy and beam search over a captioning model.

The memory of an image is shared by its beams, the cache of the words so far follows them, and finished images
leave the batch. Beams never see another image, so a caption does not depend on the batch it was in.

Shapes: B images still searched, K beams, V vocabulary.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glied.captioner.model import Cache, CaptioningModel, Memory
from glied.captioner.vocabulary import BOS, EOS, PAD, UNK
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How captions are searched."""

    beam_size: int = 3
    """Number of beams; 1 is greedy decoding."""
    length_penalty: float = 1.0
    """Captions are ranked by log-probability / length ** length_penalty; 0 ranks by log-probability alone."""
    max_length: int = 20
    """Most words of a caption; it is cut there."""
    min_length: int = 1
    """Fewest words of a caption."""
    block_trigrams: bool = False
    """Never repeat three words that stand in the caption already."""
    n_best: int = 1
    """Number of captions returned for an image, at most beam_size."""

    def __post_init__(self) -> None:
        """Refuse values that describe no search."""
        if self.beam_size < 1:
            raise UsageError(f"beam_size: {self.beam_size} is not at least 1")
        if not 1 <= self.n_best <= self.beam_size:
            raise UsageError(f"n_best: {self.n_best} is not between 1 and beam_size ({self.beam_size})")
        if self.max_length < 1:
            raise UsageError(f"max_length: {self.max_length} is not at least 1")
        if not 0 <= self.min_length <= self.max_length:
            raise UsageError(f"min_length: {self.min_length} is not in 0 to max_length ({self.max_length})")
        if self.length_penalty < 0:
            raise UsageError(f"length_penalty: {self.length_penalty} is negative")


@dataclass(frozen=True)
class Hypothesis:
    """A caption that was found.

    Attributes:
        tokens: ids of its words, without begin and end.
        log_probability: natural logarithm, the end token included unless the caption was cut.
        finished: False when it was cut at the maximum length.
    """

    tokens: tuple[int, ...]
    log_probability: float
    finished: bool = True

    def score(self, length_penalty: float) -> float:
        """The log-probability normalized by the number of tokens it sums over."""
        return self.log_probability / max(len(self.tokens) + self.finished, 1) ** length_penalty


@dataclass
class _Beams:
    """The live beams of the images still searched; `images` are their places in the caller's batch."""

    images: Tensor
    memory: Memory
    cache: Cache
    scores: Tensor  # [B, K]
    history: Tensor  # [B, K, words so far]
    last: Tensor  # [B, K]

    def extend(self, parents: Tensor, words: Tensor, scores: Tensor) -> None:
        """Continue beams `parents` [B, K'] with `words` [B, K']; their caches follow."""
        batch, width = self.last.shape
        offsets = torch.arange(batch, device=parents.device)[:, None] * width
        if width > 1 or parents.shape[1] > 1:
            self.cache = self.cache.select((offsets + parents).flatten())
        past = self.history.gather(1, parents[..., None].expand(-1, -1, self.history.shape[2]))
        self.history = torch.cat((past, words[..., None]), dim=2)
        self.scores, self.last = scores, words

    def keep(self, rows: Tensor) -> None:
        """Drop the images that are not in `rows`."""
        beams = torch.arange(self.last.shape[1], device=rows.device)
        self.cache = self.cache.select((rows[:, None] * self.last.shape[1] + beams).flatten())
        self.images, self.memory = self.images[rows], self.memory.select(rows)
        self.scores, self.history, self.last = self.scores[rows], self.history[rows], self.last[rows]


@dataclass
class _Pool:
    """The hypotheses of each image of the caller's batch; full when it has as many as there are beams."""

    config: DecodingConfig
    found: list[list[Hypothesis]] = field(default_factory=list)

    def add(self, image: int, words: list[int], log_probability: float, finished: bool) -> None:
        if log_probability > -math.inf:
            self.found[image].append(Hypothesis(tuple(words), log_probability, finished))

    def full(self, image: int) -> bool:
        return len(self.found[image]) >= self.config.beam_size

    def best(self) -> list[list[Hypothesis]]:
        penalty, count = self.config.length_penalty, self.config.n_best
        return [sorted(found, key=lambda one: -one.score(penalty))[:count] for found in self.found]


@torch.inference_mode()
def decode(model: CaptioningModel, memory: Memory, config: DecodingConfig) -> list[list[Hypothesis]]:
    """Search captions for every image of `memory`; returns each image's `n_best`, the best first.

    A hypothesis that ends among the best `beam_size` candidates of its step enters the image's pool, and the
    search of an image ends when its pool holds `beam_size`; at the maximum length what is still alive is cut
    and enters too. An image has fewer than `n_best` hypotheses only where the vocabulary does not allow more.
    """
    training = model.training
    model.eval()
    try:
        return _search(model, memory, config)
    finally:
        model.train(training)


def _search(model: CaptioningModel, memory: Memory, config: DecodingConfig) -> list[list[Hypothesis]]:
    pool = _Pool(config, [[] for _ in range(memory.batch_size)])
    beams = _start(model, memory, config)
    for length in range(config.max_length + 1):
        if length == config.max_length:
            _cut(beams, pool)
            break
        log_probabilities = model.step(beams.memory, beams.last, beams.cache).float().log_softmax(dim=-1)
        _forbid(log_probabilities, beams.history, config)
        _advance(beams, pool, log_probabilities, config.beam_size)
        active = [row for row, image in enumerate(beams.images.tolist()) if not pool.full(image)]
        if not active:
            break
        if len(active) < len(beams.images):
            beams.keep(torch.tensor(active, device=beams.images.device))
    return pool.best()


def _start(model: CaptioningModel, memory: Memory, config: DecodingConfig) -> _Beams:
    """One beam per image, that holds the begin token; the first step makes it `beam_size`."""
    batch, device = memory.batch_size, model.embedding.weight.device
    return _Beams(
        images=torch.arange(batch, device=device),
        memory=memory,
        cache=model.start(batch, config.max_length),
        scores=torch.zeros(batch, 1, device=device),
        history=torch.empty(batch, 1, 0, dtype=torch.int64, device=device),
        last=torch.full((batch, 1), BOS, device=device),
    )


def _forbid(log_probabilities: Tensor, history: Tensor, config: DecodingConfig) -> None:
    """Set to -inf, in place, what must not come next; log_probabilities [B, K, V], history [B, K, T]."""
    log_probabilities[..., [PAD, BOS, UNK]] = -math.inf
    length = history.shape[2]
    if length < config.min_length:
        log_probabilities[..., EOS] = -math.inf
    if config.block_trigrams and length >= 3:
        first, second, third = history[..., :-2], history[..., 1:-1], history[..., 2:]
        repeated = (first == history[..., -2:-1]) & (second == history[..., -1:])  # [B, K, T - 2]
        blocked = torch.zeros(repeated.shape, device=history.device).masked_fill(repeated, -math.inf)
        log_probabilities.scatter_add_(2, third, blocked)


def _advance(beams: _Beams, pool: _Pool, log_probabilities: Tensor, beam_size: int) -> None:
    """Extend the beams by a word: ends among the `beam_size` best are pooled, the best others live.

    Of the 2 * beam_size best candidates at least beam_size are no end, since a beam ends in one way only.
    """
    vocabulary_size = log_probabilities.shape[2]
    totals = (beams.scores[..., None] + log_probabilities).flatten(1)  # [B, K * V]
    scores, flat = totals.topk(min(2 * beam_size, totals.shape[1]), dim=1)
    parents, words = flat // vocabulary_size, flat % vocabulary_size
    ended = words == EOS
    for row, rank in ended[:, :beam_size].nonzero().tolist():
        past = beams.history[row, parents[row, rank]].tolist()
        image = int(beams.images[row])
        if not pool.full(image):
            pool.add(image, past, float(scores[row, rank]), True)
    live = ended.int().argsort(dim=1, stable=True)[:, :beam_size]  # ends last, otherwise by rank
    scores = scores.masked_fill(ended, -math.inf)
    beams.extend(parents.gather(1, live), words.gather(1, live), scores.gather(1, live))


def _cut(beams: _Beams, pool: _Pool) -> None:
    """Pool what is still alive at the maximum length, the best first."""
    scores, order = beams.scores.sort(dim=1, descending=True)
    for row, image in enumerate(beams.images.tolist()):
        for score, beam in zip(scores[row].tolist(), order[row].tolist(), strict=True):
            if not pool.full(image):
                pool.add(image, beams.history[row, beam].tolist(), score, False)
