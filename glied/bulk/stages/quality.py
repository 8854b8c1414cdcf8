"""Which of an image's captions comes first, and what is worth knowing of it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glied.text.repetition import repeats
from glied.text.tokenizer import tokenize

Caption = dict[str, Any]
"""An entry of the column captions."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Choice among the n best captions, and flags."""

    best_by: Literal["search", "clip_score"] = "search"
    """Order of the n best captions of a prompt: that of the search, or the highest CLIP-S first (needs
    `clip`)."""
    low_clip_score: float | None = None
    """Captions with a lower CLIP-S are flagged in the column low_clip_score (needs `clip`); null flags none.
    Which value is low depends on the CLIP."""

    @property
    def needs_clip(self) -> bool:
        """Whether it takes CLIP scores."""
        return self.best_by == "clip_score" or self.low_clip_score is not None

    def ordered(self, captions: Sequence[Caption]) -> list[Caption]:
        """The captions of an image, prompt by prompt and the best of each first."""
        if self.best_by == "search":
            return list(captions)
        prompts = itertools.groupby(captions, key=lambda one: one.get("prompt"))
        return [one for _, some in prompts for one in sorted(some, key=_score, reverse=True)]

    def columns_of(self, caption: Caption) -> dict[str, Any]:
        """The columns of a row that tell of its first caption."""
        score, least = caption.get("clip_score"), self.low_clip_score
        return {
            "caption": caption["text"],
            "clip_score": score,
            "low_clip_score": None if score is None or least is None else score < least,
            "repeats": repeats(tokenize(caption["text"])),
            "truncated": caption.get("truncated"),
        }


def _score(caption: Caption) -> float:
    """CLIP-S of a caption for comparisons; captions without one come last.

    Rounded, since it depends on the batch in its last digits, and the choice must not.
    """
    score = caption.get("clip_score")
    return -math.inf if score is None else round(score, 4)
