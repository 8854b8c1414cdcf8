"""False variants of the texts of a batch, as the losses and the figures of a CLIP read them.

Shapes: B pairs, N false texts of them all, E width of the embedding.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glied.data.hard_negatives import FalseText, HardNegatives, HardNegativesConfig, load_hard_negatives
from glied.data.pairs import PairsConfig
from glied.training.task import Split

NO_ROW = -1
"""Instead of a row: a place of the batch that has no false text."""
VALIDATED = 6
"""Most false variants of a text that a validation compares it with."""


@dataclass(frozen=True)
class FalseTexts:
    """False texts of a batch.

    Attributes:
        tokens: [N, T] int64.
        rows: [N] int64, the pair of which each is a variant, or `NO_ROW`.
        kinds: [N] int64.
    """

    tokens: Tensor
    rows: Tensor
    kinds: Tensor

    @property
    def real(self) -> Tensor:
        """[N], True where there is a false text."""
        return self.rows != NO_ROW

    def nearer(self, image: Tensor, text: Tensor, false: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the true text is nearer to its image than each false one [n], and their kinds [n].

        Args:
            image: [B, E], unit vectors.
            text: [B, E], unit vectors of the true texts.
            false: [N, E], unit vectors.
        """
        return self._nearer(image, text, false)[self.real], self.kinds[self.real]

    def share_nearer(self, image: Tensor, text: Tensor, false: Tensor) -> Tensor:
        """The share of the false texts than which the true one is nearer, 0-d; arguments as for `nearer`."""
        return (self._nearer(image, text, false) & self.real).sum() / self.real.sum().clamp(min=1)

    def _nearer(self, image: Tensor, text: Tensor, false: Tensor) -> Tensor:
        """[N], without meaning where there is no false text."""
        rows = self.rows.clamp(min=0)
        return (image * text).sum(dim=1)[rows] > (image[rows] * false).sum(dim=1)


def _draw(variants: Sequence[FalseText], count: int, rng: random.Random) -> list[FalseText]:
    """Up to `count` of the variants, each kind with the same probability."""
    left, drawn = list(variants), []
    for _ in range(min(count, len(left))):
        kind = rng.choice(sorted({one.kind for one in left}))
        drawn.append(rng.choice([one for one in left if one.kind == kind]))
        left.remove(drawn[-1])
    return drawn


class HardNegativesBySplit:
    """The hard negatives of a training's splits, read when they are first needed."""

    def __init__(self, config: HardNegativesConfig, train: PairsConfig, validation: PairsConfig) -> None:
        """`train` and `validation` are the pairs that the files of `config` belong to."""
        self._config, self._pairs = config, {"train": train, "validation": validation}
        self._loaded: dict[Split, HardNegatives] = {}

    def of(self, split: Split) -> HardNegatives:
        """Those of a split; raises as `load_hard_negatives`."""
        if split not in self._loaded:
            self._loaded[split] = load_hard_negatives(getattr(self._config, split), self._pairs[split])
        return self._loaded[split]

    def draw(
        self,
        split: Split,
        images: Sequence[str],
        texts: Sequence[str],
        rng: random.Random,
        tokenize: Callable[[list[str]], Tensor],
        form: Callable[[int, str], str],
    ) -> FalseTexts | None:
        """Some false variants of texts, `count` at most in training and `VALIDATED` in validation.

        Args:
            split: the split.
            images: URIs.
            texts: that of each image.
            rng: draws which.
            tokenize: the tokenizer of the CLIP.
            form: makes of the number of an image and a variant what is tokenized, with its prompt.

        Returns:
            As many places for each text, so that all workers have the same number; None without a file.
        """
        negatives = self.of(split)
        if not negatives.kinds:
            return None
        places = self._config.count if split == "train" else VALIDATED
        drawn = [_draw(negatives.variants(*pair), places, rng) for pair in zip(images, texts, strict=True)]
        filled = [(row, one) for row, several in enumerate(drawn) for one in several]
        empty = len(drawn) * places - len(filled)
        return FalseTexts(
            tokenize([*(form(row, one.text) for row, one in filled), *[""] * empty]),
            rows=torch.tensor([row for row, _ in filled] + [NO_ROW] * empty),
            kinds=torch.tensor([one.kind for _, one in filled] + [0] * empty),
        )


def accuracy_by_kind(found: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> dict[str, float]:
    """How often true texts were nearer, in percent, by kind: "hard_relation" and so on.

    Args:
        found: the results of `FalseTexts.nearer`.
        names: of the kinds.
    """
    if not found:
        return {}
    nearer, kinds = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    by_kind = {name: nearer[kinds == number].float() for number, name in enumerate(names)}
    return {f"hard_{name}": 100 * float(values.mean()) for name, values in by_kind.items() if len(values)}
