"""The text that CLIP sees with an image in a step: its full text, a part of it, or another one that fits."""

import random
from dataclasses import dataclass

import torch

from glied.data.pairs import Pair
from glied.errors import UsageError
from glied.text.tokenizer import tokenize


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """Which text stands for an image in training; validation uses the first text of each."""

    clauses: float = 0.4
    """Share of the texts that are a random selection of the first text's clauses, where a pair has some."""
    first: float = 0.6
    """Share of the others that are the first text, as a scene's full description; what remains is drawn from
    all texts of the pair. 0 for captions of equal rank, as COCO's."""

    def __post_init__(self) -> None:
        """Refuse values that are no shares."""
        for name in ("clauses", "first"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"texts.{name}: {getattr(self, name)} is not in [0, 1]")


def draw_text(texts: list[str], clauses: list[str], config: TextsConfig, rng: random.Random) -> str:
    """One of the texts of a pair, or a selection of at least half of its clauses but not all, in order."""
    if len(clauses) > 1 and rng.random() < config.clauses:
        count = rng.randint(len(clauses) // 2, len(clauses) - 1)
        return " ".join(clauses[index] for index in sorted(rng.sample(range(len(clauses)), count)))
    return texts[0] if rng.random() < config.first else rng.choice(texts)


def python_random(generator: torch.Generator) -> random.Random:
    """A generator of Python's random numbers, seeded by `generator`."""
    return random.Random(int(torch.randint(2**62, (), generator=generator)))


def all_texts(pairs: list[Pair]) -> list[str]:
    """Every text and clause of the pairs: whatever `draw_text` gives has their words only."""
    return [text for pair in pairs for text in (*pair.texts, *pair.clauses)]


def plain(text: str) -> str:
    """A text as a captioner writes it: lowercase words without punctuation, so that only grammar differs."""
    return " ".join(tokenize(text))
