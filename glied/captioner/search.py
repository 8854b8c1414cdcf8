"""The state of a search over captions: live beams, their back-pointers and the hypotheses that have ended.

A beam search is K beams in G groups of k = K / G, each group with its own pool of ended hypotheses. Greedy
decoding is one group of one beam, sampling as many groups of one beam as there are samples: a beam that ends
is then the group's result.

Where it is `queued`, nothing here asks the device for a value, except `active` and `results`: the steps
between two calls of `active` are queued without waiting.

Shapes: B images still searched, of the M that were given; G groups of k beams, K = G * k; C candidates;
P captions; V vocabulary; T most words.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glied.captioner.model import CaptioningModel, Memory
from glied.text.vocabulary import BOS, EOS, PAD


@dataclass(frozen=True)
class Hypothesis:
    """A caption that was found.

    Attributes:
        tokens: ids of its words, without begin and end.
        log_probability: natural logarithm under the model, the end token included unless the caption was cut.
        finished: False when it was cut at the maximum length.
    """

    tokens: tuple[int, ...]
    log_probability: float
    finished: bool = True

    def score(self, length_penalty: float) -> float:
        """The log-probability normalized by the number of tokens it sums over."""
        return self.log_probability / max(len(self.tokens) + self.finished, 1) ** length_penalty


@dataclass(frozen=True)
class Candidates:
    """Continuations of the beams of each group, the best first: all [B, G, C].

    Attributes:
        keys: what they are ranked by.
        scores: log-probability of the whole caption so far.
        parents: the beam continued, 0 to K - 1.
        words: the word that continues it.
    """

    keys: Tensor
    scores: Tensor
    parents: Tensor
    words: Tensor

    def take(self, order: Tensor) -> "Candidates":
        """Those at `order` [B, G, C']."""
        return Candidates(*(part.gather(-1, order) for part in vars(self).values()))


@dataclass(frozen=True)
class Trail:
    """Back-pointers: which beam each word continued; histories are never copied.

    Attributes:
        words: [T, M, K] int64.
        parents: [T, M, K] int64; None where every beam continues itself.
    """

    words: Tensor
    parents: Tensor | None

    def record(self, step: int, images: Tensor, words: Tensor, parents: Tensor) -> None:
        """Add the `words` [B, K] of a step."""
        self.words[step].index_copy_(0, images, words)
        if self.parents is not None:
            self.parents[step].index_copy_(0, images, parents)

    def follow(self, images: Tensor, slots: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """The words of captions, [B, P] -> [B, P, longest], PAD behind the end.

        Args:
            images: [B], among the M.
            slots: [B, P], the beam each caption was after its last word.
            lengths: [B, P], its number of words.
            longest: at least every length.
        """
        found = []
        for step in reversed(range(longest)):
            inside = step < lengths
            found.append(self.words[step, images].gather(1, slots).where(inside, PAD))
            if self.parents is not None:
                slots = self.parents[step, images].gather(1, slots).where(inside, slots)
        return torch.stack(found[::-1], dim=-1) if found else slots.new_empty(*slots.shape, 0)


@dataclass
class Pool:
    """The best ended hypotheses of each group, the best first; all [B, G, k].

    Attributes:
        keys: normalized log-probability, -inf where there is none.
        scores: log-probability.
        lengths: number of words.
        slots: the beam they were after their last word, for `Trail`.
    """

    keys: Tensor
    scores: Tensor
    lengths: Tensor
    slots: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int, int], device: torch.device) -> "Pool":
        """Without hypotheses; `shape` is (B, G, k)."""
        nothing = torch.full(shape, -math.inf, device=device)
        zeros = torch.zeros(shape, dtype=torch.int64, device=device)
        return cls(nothing, nothing.clone(), zeros, zeros.clone())

    def add(self, keys: Tensor, scores: Tensor, length: int, slots: Tensor) -> None:
        """Merge hypotheses of `length` words, [B, G, C]; a key of -inf is none."""
        size = self.keys.shape[-1]
        self.keys, order = torch.cat((self.keys, keys), dim=-1).topk(size, dim=-1)
        self.scores = torch.cat((self.scores, scores), dim=-1).gather(-1, order)
        self.lengths = torch.cat((self.lengths, torch.full_like(slots, length)), dim=-1).gather(-1, order)
        self.slots = torch.cat((self.slots, slots), dim=-1).gather(-1, order)

    def room(self, offered: Tensor) -> Tensor:
        """Which of the `offered` (bool [B, G, C], the best first) find an empty place."""
        free = (self.keys == -math.inf).sum(dim=-1, keepdim=True)
        return offered & (offered.cumsum(dim=-1) <= free)

    def select(self, rows: Tensor) -> "Pool":
        """Keep the images `rows`."""
        return Pool(*(part.index_select(0, rows) for part in vars(self).values()))

    def store(self, images: Tensor, pool: "Pool") -> None:
        """Overwrite the images `images` with `pool`."""
        for mine, theirs in zip(vars(self).values(), vars(pool).values(), strict=True):
            mine.index_copy_(0, images, theirs)


class Search:
    """Captions of M images on their way."""

    def __init__(
        self,
        model: CaptioningModel,
        memory: Memory,
        *,
        groups: int,
        beams: int,
        n_best: int,
        max_length: int,
        length_penalty: float,
        stop: str,
        queued: bool,
    ) -> None:
        """Before the first step.

        Args:
            model: that encoded `memory`.
            memory: of M images.
            groups: G.
            beams: k.
            n_best: captions wanted of each group.
            max_length: most words.
            length_penalty: as in the config.
            stop: "full" or "exact", as in the config.
            queued: never look at a value between two calls of `active`, as on a GPU, where to look costs more
                than to do what the value says is not needed.
        """
        device, batch = model.embedding.weight.device, memory.batch_size
        self.groups, self.beams, self.n_best = groups, beams, n_best
        self.max_length, self.length_penalty, self.stop = max_length, length_penalty, stop
        self.queued = queued
        self.step = 0
        self.images = torch.arange(batch, device=device)
        self.memory = memory.contiguous()
        self.cache = model.start(batch, groups * beams, max_length)
        # All beams hold the begin token: one is enough for the first step.
        self.words = torch.full((batch, 1), BOS, device=device)  # [B, K] later
        self.scores = torch.zeros(batch, groups if beams == 1 else 1, device=device)  # [B, K] later
        self.pool = Pool.empty((batch, groups, beams), device)
        self.ended = Pool.empty((batch, groups, beams), device)  # of all M
        shape = (max_length, batch, groups * beams)
        words = torch.empty(shape, dtype=torch.int64, device=device)
        self.trail = Trail(words, None if beams == 1 else torch.empty_like(words))

    def histories(self) -> Tensor:
        """The words of the live beams, [B, K, steps]; one empty beam at the start."""
        slots = torch.arange(self.words.shape[1], device=self.words.device).expand_as(self.words)
        return self.trail.follow(self.images, slots, torch.full_like(slots, self.step), self.step)

    def advance(self, candidates: Candidates) -> None:
        """Extend the beams by a word: ends among the k best candidates are pooled, the k best others live."""
        self.step += 1
        best = slice(None, self.beams)
        ended = candidates.words[..., best] == EOS
        self._pool(candidates.scores[..., best], ended, self.step - 1, candidates.parents[..., best])
        live = self.live(candidates)
        shape = (len(self.images), -1)
        self.scores, self.words = live.scores.view(shape), live.words.view(shape)
        parents = live.parents.view(shape)
        self.trail.record(self.step - 1, self.images, self.words, parents)
        if self.beams > 1 or self.step == 1:
            self.cache.follow(parents)

    def live(self, candidates: Candidates) -> Candidates:
        """The k best that do not end; where there are too few, scores of -inf.

        Of 2k candidates at least k do not end, for a beam ends in one way only.
        """
        keys, order = candidates.keys.masked_fill(candidates.words == EOS, -math.inf).topk(self.beams, dim=-1)
        live = candidates.take(order)
        return Candidates(keys, live.scores.where(keys > -math.inf, -math.inf), live.parents, live.words)

    def cut(self) -> None:
        """Pool what is still alive at the maximum length."""
        scores = self.scores.view(len(self.images), self.groups, self.beams)
        slots = torch.arange(self.scores.shape[1], device=scores.device).view(1, self.groups, self.beams)
        self._pool(scores, scores > -math.inf, self.step, slots.expand_as(scores))

    def _pool(self, scores: Tensor, ended: Tensor, words: int, slots: Tensor) -> None:
        """Pool those hypotheses of `words` words that have `ended`; each is a product of `step` factors."""
        if not self.queued and not ended.any():
            return
        if self.stop == "full":
            ended = self.pool.room(ended)
        keys = (scores / self.step**self.length_penalty).masked_fill(~ended, -math.inf)
        self.pool.add(keys, scores, words, slots)

    def active(self) -> Tensor:
        """Images whose result can still change: indices into B, on the CPU."""
        best = self.scores.view(len(self.images), self.groups, -1).amax(dim=-1)  # [B, G]
        if self.stop == "full":
            done = self.pool.keys[..., -1] > -math.inf
        else:  # nothing that lives can have a higher score than with max_length words, all of probability 1
            done = self.pool.keys[..., self.n_best - 1] >= best / self.max_length**self.length_penalty
        return (~(done | (best == -math.inf))).any(dim=-1).nonzero().squeeze(1).cpu()

    def keep(self, rows: Tensor) -> None:
        """Drop the images that are not in `rows`; what they have found is kept."""
        self.ended.store(self.images, self.pool)
        rows = rows.to(self.images.device)
        self.images, self.memory = self.images[rows], self.memory.select(rows)
        self.cache, self.pool = self.cache.select(rows), self.pool.select(rows)
        self.scores, self.words = self.scores[rows], self.words[rows]

    def snapshot(self) -> "Search":
        """Itself as it is now, for `active` and `results` later, however the search goes on."""
        now = copy.copy(self)
        now.pool = copy.copy(self.pool)
        return now

    def results(self) -> list[list[list[Hypothesis]]]:
        """The hypotheses of each of the M images and each group, the best first."""
        self.ended.store(self.images, self.pool)
        pool, images = self.ended, torch.arange(len(self.ended.keys), device=self.images.device)
        words = self.trail.follow(images, pool.slots.flatten(1), pool.lengths.flatten(1), self.step)
        shape = (*pool.keys.shape, -1)
        listed = (words.view(shape).tolist(), pool.lengths.tolist(), pool.scores.tolist())
        return [
            [self._hypotheses(*group) for group in zip(*image, strict=True)]
            for image in zip(*listed, strict=True)
        ]

    def _hypotheses(
        self, words: list[list[int]], lengths: list[int], scores: list[float]
    ) -> list[Hypothesis]:
        """Those of a group; only what was cut has the maximum length, since an end takes a step."""
        return [
            Hypothesis(tuple(caption[:length]), score, length < self.max_length)
            for caption, length, score in zip(words, lengths, scores, strict=True)
            if score > -math.inf
        ]
