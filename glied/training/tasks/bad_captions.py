"""A captioner's own bad captions, as negatives of the grammar head.

A reward drives a captioner to faults that no corruption of correct captions imitates. Captions that show them
teach the head what it will be asked about (Self-Cap, Moratelli et al. 2024, arXiv 2408.16827).
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glied.data import caption_files
from glied.data.coco import load_images
from glied.errors import UsageError
from glied.training.steps import fold_seed
from glied.training.tasks.clip_texts import plain

_HELD_OUT = 10
"""One in so many bad captions is not learned; on those accuracy is measured."""


@dataclass(frozen=True, kw_only=True)
class BadCaptionsConfig:
    """Bad captions of a captioner."""

    captions: str = ""
    """Captions file, in any form of docs/inputs.md, as jobs/select_negatives.py writes it. Empty for none."""
    share: float = 0.3
    """Share of the broken captions of a step that are drawn from them."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if not 0 <= self.share <= 1:
            raise UsageError(f"bad_captions.share: {self.share:g} is not in [0, 1]")


@dataclass(frozen=True)
class BadCaptions:
    """Bad captions as a captioner writes them.

    Attributes:
        learned: those to learn from.
        unseen: the others.
    """

    learned: Sequence[str] = ()
    unseen: Sequence[str] = ()

    @property
    def all(self) -> list[str]:
        """Both."""
        return [*self.learned, *self.unseen]

    def without(self, words: Iterable[str]) -> "BadCaptions":
        """Those that have none of some words."""
        left_out = set(words)
        kept = (
            [one for one in each if not left_out & set(one.split())] for each in (self.learned, self.unseen)
        )
        return BadCaptions(*kept)

    def draw_unseen(self, count: int, rng: random.Random) -> list[str]:
        """Some of the unseen ones, with repetitions; nothing where there are none."""
        return rng.choices(self.unseen, k=count) if self.unseen else []


def load_bad_captions(uri: str) -> BadCaptions:
    """Read a captions file; nothing without one.

    Raises:
        UsageError: the file is missing or malformed, or has too few captions.
    """
    if not uri:
        return BadCaptions()
    captions = list(dict.fromkeys(filter(None, map(plain, _texts(uri)))))
    found = BadCaptions(
        [one for one in captions if fold_seed("bad captions", one) % _HELD_OUT],
        [one for one in captions if not fold_seed("bad captions", one) % _HELD_OUT],
    )
    if not found.learned:
        raise UsageError(
            f"bad_captions.captions: {uri} has {len(captions)} different captions, too few to learn from"
        )
    return found


def _texts(uri: str) -> Iterable[str]:
    content = caption_files.read(uri)
    if isinstance(content, dict):
        return [text for image in load_images(uri) for text in image.captions]
    return [text for entry in content for text in entry.captions if text]
