"""The state of a caption search: live beams, back-pointers, and finished hypotheses.

A beam search has K beams in G groups of k = K / G, and each group collects its own finished hypotheses.
Greedy decoding is one group of one beam. Sampling has as many groups of one beam as there are samples; a beam
that ends is the result of its group.

With `no_sync`, only `active` and `results` read values from the device, so all steps between two calls of
`active` are queued on the GPU without waiting.

Shapes: B images still searched, of M images in total; G groups of k beams, K = G * k; C candidates;
P captions; V vocabulary; T maximum length in words.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glied.captioner.model import EncoderOutput, StepModel
from glied.text.vocabulary import PAD


@dataclass(frozen=True)
class Hypothesis:
    """A caption that the search returned.

    Attributes:
        tokens: word ids, without begin and end tokens.
        log_probability: natural logarithm under the model, including the end token unless truncated.
        finished: False if the caption was truncated at the maximum length.
    """

    tokens: tuple[int, ...]
    log_probability: float
    finished: bool = True

    def score(self, length_penalty: float) -> float:
        """Return the log-probability divided by the number of tokens it covers ** `length_penalty`."""
        return self.log_probability / max(len(self.tokens) + self.finished, 1) ** length_penalty


@dataclass(frozen=True)
class Candidates:
    """Continuations of the beams of each group, best first; all fields are [B, G, C].

    Attributes:
        keys: the values they are ranked by.
        scores: log-probability of the whole caption so far.
        parents: the beam that is continued, 0 to K - 1.
        words: the next word.
    """

    keys: Tensor
    scores: Tensor
    parents: Tensor
    words: Tensor

    def take(self, order: Tensor) -> "Candidates":
        """Return the candidates at positions `order` [B, G, C']."""
        return Candidates(*(part.gather(-1, order) for part in vars(self).values()))


@dataclass(frozen=True)
class BackPointers:
    """The word of each beam at each step, and the beam that it continued; histories are never copied.

    Attributes:
        words: [T, M, K] int64.
        parents: [T, M, K] int64; None if every beam continues itself.
    """

    words: Tensor
    parents: Tensor | None

    def record(self, step: int, images: Tensor, words: Tensor, parents: Tensor) -> None:
        """Store the `words` and `parents` [B, K] of a step."""
        self.words[step].index_copy_(0, images, words)
        if self.parents is not None:
            self.parents[step].index_copy_(0, images, parents)

    def backtrack(self, images: Tensor, slots: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Collect the words of captions, [B, P] -> [B, P, longest], padded with PAD.

        Args:
            images: [B], indices among the M images.
            slots: [B, P], the beam of each caption at its last word.
            lengths: [B, P], number of words.
            longest: upper bound of all lengths.
        """
        columns = []
        for step in reversed(range(longest)):
            inside = step < lengths
            columns.append(self.words[step, images].gather(1, slots).where(inside, PAD))
            if self.parents is not None:
                slots = self.parents[step, images].gather(1, slots).where(inside, slots)
        return torch.stack(columns[::-1], dim=-1) if columns else slots.new_empty(*slots.shape, 0)


@dataclass
class FinishedHypotheses:
    """The best finished hypotheses of each group, best first; all fields are [B, G, k].

    Attributes:
        keys: normalized log-probability, -inf in empty places.
        scores: log-probability.
        lengths: number of words.
        slots: the beam of each hypothesis at its last word, for `BackPointers`.
    """

    keys: Tensor
    scores: Tensor
    lengths: Tensor
    slots: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int, int], device: torch.device) -> "FinishedHypotheses":
        """Create an instance without hypotheses; `shape` is (B, G, k)."""
        empty = torch.full(shape, -math.inf, device=device)
        zeros = torch.zeros(shape, dtype=torch.int64, device=device)
        return cls(empty, empty.clone(), zeros, zeros.clone())

    def add(self, keys: Tensor, scores: Tensor, length: int, slots: Tensor) -> None:
        """Merge hypotheses of `length` words, [B, G, C]; a key of -inf marks an empty entry."""
        size = self.keys.shape[-1]
        self.keys, order = torch.cat((self.keys, keys), dim=-1).topk(size, dim=-1)
        self.scores = torch.cat((self.scores, scores), dim=-1).gather(-1, order)
        self.lengths = torch.cat((self.lengths, torch.full_like(slots, length)), dim=-1).gather(-1, order)
        self.slots = torch.cat((self.slots, slots), dim=-1).gather(-1, order)

    def fitting(self, offered: Tensor) -> Tensor:
        """Return which `offered` hypotheses (bool [B, G, C], best first) fit into empty places."""
        free = (self.keys == -math.inf).sum(dim=-1, keepdim=True)
        return offered & (offered.cumsum(dim=-1) <= free)

    def select(self, rows: Tensor) -> "FinishedHypotheses":
        """Return the hypotheses of the images `rows`."""
        return FinishedHypotheses(*(part.index_select(0, rows) for part in vars(self).values()))

    def store(self, images: Tensor, finished: "FinishedHypotheses") -> None:
        """Overwrite the hypotheses of `images` with `finished`."""
        for mine, theirs in zip(vars(self).values(), vars(finished).values(), strict=True):
            mine.index_copy_(0, images, theirs)


class Search:
    """The search state of M images."""

    def __init__(
        self,
        model: StepModel,
        encoded: EncoderOutput,
        *,
        groups: int,
        beams: int,
        n_best: int,
        max_length: int,
        length_penalty: float,
        stop: str,
        no_sync: bool,
    ) -> None:
        """Set up the state before the first step.

        Args:
            model: the model that produced `encoded`.
            encoded: encoder output of M images.
            groups: G.
            beams: k.
            n_best: captions to return from each group.
            max_length: maximum length in words.
            length_penalty: as in the config.
            stop: "full" or "exact", as in the config.
            no_sync: never read a value between two calls of `active`. On a GPU, waiting for a value costs
                more than the work that it could save.
        """
        device, batch = model.embedding.weight.device, encoded.batch_size
        self.groups, self.beams, self.n_best = groups, beams, n_best
        self.max_length, self.length_penalty, self.stop = max_length, length_penalty, stop
        self.no_sync = no_sync
        self.end = model.end
        self.step = 0
        self.images = torch.arange(batch, device=device)
        self.encoded = encoded.contiguous()
        self.cache = model.start(batch, groups * beams, max_length)
        # All beams hold the begin token: one is enough for the first step.
        self.words = torch.full((batch, 1), model.begin, device=device)  # [B, K] later
        self.scores = torch.zeros(batch, groups if beams == 1 else 1, device=device)  # [B, K] later
        self.finished = FinishedHypotheses.empty((batch, groups, beams), device)
        self.all_finished = FinishedHypotheses.empty((batch, groups, beams), device)  # of all M images
        shape = (max_length, batch, groups * beams)
        words = torch.empty(shape, dtype=torch.int64, device=device)
        self.back_pointers = BackPointers(words, None if beams == 1 else torch.empty_like(words))

    def histories(self) -> Tensor:
        """Return the words of the live beams, [B, K, steps]; one empty beam before the first step."""
        slots = torch.arange(self.words.shape[1], device=self.words.device).expand_as(self.words)
        return self.back_pointers.backtrack(self.images, slots, torch.full_like(slots, self.step), self.step)

    def advance(self, candidates: Candidates) -> None:
        """Extend the beams by one word.

        Candidates that end among the k best join the finished hypotheses; the k best of the others stay live.
        """
        self.step += 1
        best = slice(None, self.beams)
        ended = candidates.words[..., best] == self.end
        self._finish(candidates.scores[..., best], ended, self.step - 1, candidates.parents[..., best])
        live = self.live(candidates)
        shape = (len(self.images), -1)
        self.scores, self.words = live.scores.view(shape), live.words.view(shape)
        parents = live.parents.view(shape)
        self.back_pointers.record(self.step - 1, self.images, self.words, parents)
        if self.beams > 1 or self.step == 1:
            self.cache.follow(parents)

    def live(self, candidates: Candidates) -> Candidates:
        """Return the k best candidates that do not end, with scores of -inf if there are fewer.

        At least k of 2k candidates do not end, because each beam has only one continuation that ends.
        """
        ends = candidates.words == self.end
        keys, order = candidates.keys.masked_fill(ends, -math.inf).topk(self.beams, dim=-1)
        live = candidates.take(order)
        return Candidates(keys, live.scores.where(keys > -math.inf, -math.inf), live.parents, live.words)

    def truncate(self) -> None:
        """Move the beams that are still live at the maximum length to the finished hypotheses."""
        scores = self.scores.view(len(self.images), self.groups, self.beams)
        slots = torch.arange(self.scores.shape[1], device=scores.device).view(1, self.groups, self.beams)
        self._finish(scores, scores > -math.inf, self.step, slots.expand_as(scores))

    def _finish(self, scores: Tensor, ended: Tensor, words: int, slots: Tensor) -> None:
        """Add the `ended` hypotheses, of `words` words and `step` log-probability terms each."""
        if not self.no_sync and not ended.any():
            return
        if self.stop == "full":
            ended = self.finished.fitting(ended)
        keys = (scores / self.step**self.length_penalty).masked_fill(~ended, -math.inf)
        self.finished.add(keys, scores, words, slots)

    def active(self) -> Tensor:
        """Return the images whose result can still change, as indices into B on the CPU."""
        best = self.scores.view(len(self.images), self.groups, -1).amax(dim=-1)  # [B, G]
        if self.stop == "full":
            done = self.finished.keys[..., -1] > -math.inf
        else:  # upper bound of a live beam's score: max_length words, the remaining ones with probability 1
            done = self.finished.keys[..., self.n_best - 1] >= best / self.max_length**self.length_penalty
        return (~(done | (best == -math.inf))).any(dim=-1).nonzero().squeeze(1).cpu()

    def keep(self, rows: Tensor) -> None:
        """Drop the images that are not in `rows`, after storing their finished hypotheses."""
        self.all_finished.store(self.images, self.finished)
        rows = rows.to(self.images.device)
        self.images, self.encoded = self.images[rows], self.encoded.select(rows)
        self.cache, self.finished = self.cache.select(rows), self.finished.select(rows)
        self.scores, self.words = self.scores[rows], self.words[rows]

    def snapshot(self) -> "Search":
        """Return a copy for calls of `active` and `results` after the search has continued."""
        now = copy.copy(self)
        now.finished = copy.copy(self.finished)
        return now

    def results(self) -> list[list[list[Hypothesis]]]:
        """Return the hypotheses of each of the M images and each group, best first."""
        self.all_finished.store(self.images, self.finished)
        finished, images = (
            self.all_finished,
            torch.arange(len(self.all_finished.keys), device=self.images.device),
        )
        slots, lengths = finished.slots.flatten(1), finished.lengths.flatten(1)
        words = self.back_pointers.backtrack(images, slots, lengths, self.step)
        shape = (*finished.keys.shape, -1)
        listed = (words.view(shape).tolist(), finished.lengths.tolist(), finished.scores.tolist())
        return [
            [self._hypotheses(*group) for group in zip(*image, strict=True)]
            for image in zip(*listed, strict=True)
        ]

    def _hypotheses(
        self, words: list[list[int]], lengths: list[int], scores: list[float]
    ) -> list[Hypothesis]:
        """Build the hypotheses of a group; only truncated ones have the maximum length."""
        return [
            Hypothesis(tuple(caption[:length]), score, length < self.max_length)
            for caption, length, score in zip(words, lengths, scores, strict=True)
            if score > -math.inf
        ]
