"""How captions are searched; light, since a job's driver need not import torch."""

from dataclasses import dataclass
from typing import Literal

from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How captions are searched."""

    method: Literal["beam", "sample"] = "beam"
    """Search the most probable captions, or draw captions at random."""
    beam_size: int = 3
    """Number of beams; 1 is greedy decoding."""
    length_penalty: float = 1.0
    """Captions are ranked by log-probability / length ** length_penalty; 0 ranks by log-probability alone."""
    stop: Literal["full", "exact"] = "full"
    """When an image is finished: full, when `beam_size` captions have ended; exact, when no live beam can
    still beat the captions that are returned, which takes longer and ranks at least as high."""
    max_length: int = 20
    """Most words of a caption; it is cut there."""
    min_length: int = 1
    """Fewest words of a caption."""
    block_trigrams: bool = False
    """Never repeat three words that stand in the caption already: block_ngrams 3."""
    block_ngrams: int = 0
    """Never repeat this many words in a row that stand in the caption already; 0 allows every repetition."""
    suppress: tuple[str, ...] = ()
    """Words that never occur in a caption."""
    n_best: int = 1
    """Number of captions returned for an image: at most beam_size, or the number of samples."""
    groups: int = 1
    """Groups of a diverse beam search (Vijayakumar et al. 2018); divides beam_size. The n_best are taken from
    the groups in turn."""
    diversity: float = 0.5
    """With groups, what a word costs at a step for each beam of an earlier group that has just taken it."""
    temperature: float = 1.0
    """When sampling, divides the log-probabilities."""
    top_k: int = 0
    """When sampling, draw from this many most probable words; 0 for all."""
    top_p: float = 1.0
    """When sampling, draw from the fewest words that hold this much probability (the nucleus)."""
    seed: int = 0
    """When sampling, the seed of every image that is given none of its own."""

    def __post_init__(self) -> None:
        """Refuse values that describe no search."""
        for name, least in (("beam_size", 1), ("max_length", 1), ("n_best", 1), ("groups", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}: {getattr(self, name)} is not at least {least}")
        for name in ("length_penalty", "block_ngrams", "diversity", "top_k", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}: {getattr(self, name)} is negative")
        if self.method == "beam" and self.n_best > self.beam_size:
            raise UsageError(f"n_best: {self.n_best} is not between 1 and beam_size ({self.beam_size})")
        if not 0 <= self.min_length <= self.max_length:
            raise UsageError(f"min_length: {self.min_length} is not in 0 to max_length ({self.max_length})")
        if self.beam_size % self.groups:
            raise UsageError(f"groups: {self.groups} does not divide beam_size ({self.beam_size})")
        if self.block_trigrams and self.block_ngrams not in (0, 3):
            raise UsageError(f"block_ngrams: {self.block_ngrams}, but block_trigrams is set")
        if self.temperature <= 0:
            raise UsageError(
                f"temperature: {self.temperature} is not above 0; beam_size 1 is greedy decoding"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p: {self.top_p} is not above 0 and at most 1")

    @property
    def blocked(self) -> int:
        """Size of the n-grams that never repeat, or 0."""
        return 3 if self.block_trigrams else self.block_ngrams

    @property
    def chains(self) -> int:
        """Number of captions that grow on their own: 1 for greedy decoding, the samples, or 0 with beams."""
        if self.method == "sample":
            return self.n_best
        return 1 if self.beam_size == 1 else 0
