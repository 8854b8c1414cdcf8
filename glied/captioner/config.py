"""Decoding settings. This module does not import torch, because the drivers of bulk jobs import it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from glied.config_checks import check_least
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BeamSearchConfig:
    """How a beam search ranks captions, when it stops, and how much its captions differ."""

    length_penalty: float = 1.0
    """Captions are ranked by log-probability / length ** length_penalty; 0 ranks by log-probability alone."""
    stop: Literal["full", "exact"] = "full"
    """When the search of an image stops. full: once `beam_size` captions have ended. exact: once no live beam
    can score higher than the captions to be returned, which takes longer and scores at least as high."""
    groups: int = 1
    """Groups of a diverse beam search (Vijayakumar et al. 2018); must divide beam_size. The n_best captions
    are taken from the groups in turn."""
    diversity: float = 0.5
    """With groups: penalty of a word for each beam of an earlier group that chose it in the same step."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        check_least(self, 1, "groups")
        check_least(self, 0, "length_penalty", "diversity")


@dataclass(frozen=True, kw_only=True)
class TokenSamplingConfig:
    """From which words a sample is drawn."""

    temperature: float = 1.0
    """Divides the log-probabilities."""
    top_k: int = 0
    """Draw from this many most probable words; 0 for all."""
    top_p: float = 1.0
    """Draw from the smallest set of words with this total probability (nucleus sampling)."""
    seed: int = 0
    """Seed of all images that have no seed of their own."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        check_least(self, 0, "top_k", "seed")
        if self.temperature <= 0:
            raise UsageError(
                f"temperature: {self.temperature} is not above 0; beam_size 1 is greedy decoding"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p: {self.top_p} is not above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How captions are generated."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{key: f"search.{key}" for key in ("length_penalty", "stop", "groups", "diversity")},
        **{key: f"sampling.{key}" for key in ("temperature", "top_k", "top_p", "seed")},
    }

    method: Literal["beam", "sample"] = "beam"
    """beam searches for the most probable captions; sample draws captions at random."""
    beam_size: int = 3
    """Number of beams; 1 is greedy decoding."""
    n_best: int = 1
    """Number of captions to return per image: at most beam_size, or the number of samples."""
    max_length: int = 20
    """Maximum number of words; longer captions are truncated."""
    min_length: int = 1
    """Minimum number of words."""
    block_trigrams: bool = False
    """Deprecated; use block_ngrams 3."""
    block_ngrams: int = 0
    """Never repeat an n-gram of this many words within a caption; 0 allows all repetitions."""
    suppress: tuple[str, ...] = ()
    """Words that never occur in a caption."""
    search: BeamSearchConfig = field(default_factory=BeamSearchConfig)
    """Settings of method beam."""
    sampling: TokenSamplingConfig = field(default_factory=TokenSamplingConfig)
    """Settings of method sample."""

    def __post_init__(self) -> None:
        """Reject invalid values and combinations."""
        check_least(self, 1, "beam_size", "max_length", "n_best")
        check_least(self, 0, "block_ngrams")
        if self.method == "beam" and self.n_best > self.beam_size:
            raise UsageError(f"n_best: {self.n_best} is not between 1 and beam_size ({self.beam_size})")
        if not 0 <= self.min_length <= self.max_length:
            raise UsageError(f"min_length: {self.min_length} is not in 0 to max_length ({self.max_length})")
        if self.beam_size % self.search.groups:
            raise UsageError(f"groups: {self.search.groups} does not divide beam_size ({self.beam_size})")
        if self.block_trigrams and self.block_ngrams not in (0, 3):
            raise UsageError(
                f"block_ngrams {self.block_ngrams} contradicts block_trigrams, which is deprecated: remove it"
            )

    @property
    def blocked(self) -> int:
        """Size of the n-grams that must not repeat, or 0."""
        return 3 if self.block_trigrams else self.block_ngrams

    @property
    def chains(self) -> int:
        """Number of independent captions: 1 for greedy decoding, `n_best` samples, or 0 for beam search."""
        if self.method == "sample":
            return self.n_best
        return 1 if self.beam_size == 1 else 0
