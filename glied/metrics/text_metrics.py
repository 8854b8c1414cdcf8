"""CIDEr, BLEU, ROUGE-L, METEOR and SPICE, computed by pycocoevalcap on the tokens of our tokenizer.

The tokenizer equals the PTB tokenizer of the COCO tools, so the values equal theirs. Only METEOR and SPICE
need Java; if it fails they are omitted with a note.

pycocoevalcap is imported only where it is used, so that training jobs, which import this module, can run
without it.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from glied.errors import UsageError
from glied.metrics.java_metrics import MetricUnavailableError, java_metric
from glied.text.tokenizer import tokenize

Metric = Literal["CIDEr", "BLEU", "ROUGE-L", "METEOR", "SPICE"]
WITHOUT_JAVA: tuple[Metric, ...] = ("CIDEr", "BLEU", "ROUGE-L")
BLEU_ORDERS = (1, 2, 3, 4)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tokenized:
    """Captions and references in the form the scorers expect: tokens joined by spaces, equal order of ids."""

    hypotheses: dict[str, list[str]]
    references: dict[str, list[str]]


@dataclass
class Scores:
    """Text metrics of one captions file.

    Attributes:
        values: value x 100 by metric.
        by_image: CIDEr and ROUGE-L x 100 of each image [N], in the order of the captions.
        bleu_counts: the counts that `bleu` sums up, [N, 10], if BLEU was requested.
        notes: one line for each metric that was omitted.
    """

    values: dict[str, float] = field(default_factory=dict)
    by_image: dict[str, Array] = field(default_factory=dict)
    bleu_counts: Array | None = None
    notes: list[str] = field(default_factory=list)


def tokenized(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Tokenized:
    """Tokenize captions and references, once for all metrics.

    Args:
        hypotheses: caption by image id.
        references: references by image id; ids without a hypothesis are ignored.

    Raises:
        UsageError: a hypothesis has no references, or there are no hypotheses.
    """
    if not hypotheses:
        raise UsageError("no captions to score")
    missing = [name for name in hypotheses if not references.get(name)]
    if missing:
        raise UsageError(f"{len(missing)} captions have no references: {', '.join(map(str, missing[:5]))}")
    return Tokenized(
        {name: [" ".join(tokenize(text))] for name, text in hypotheses.items()},
        {name: [" ".join(tokenize(text)) for text in references[name]] for name in hypotheses},
    )


def score(tokens: Tokenized, metrics: Sequence[Metric], *, java_timeout_s: float = 1800) -> Scores:
    """Compute metrics in the given order; metrics that need Java are omitted with a note if it fails.

    CIDEr is CIDEr-D (Vedantam et al. 2015) with the document frequencies of these references.

    Args:
        tokens: tokenized captions and references.
        metrics: the metrics to compute.
        java_timeout_s: time limit in seconds for each of METEOR and SPICE.
    """
    scores = Scores()
    for metric in metrics:
        if metric == "BLEU":
            from pycocoevalcap.bleu.bleu import Bleu

            with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its lengths
                values, _ = Bleu(4).compute_score(tokens.references, tokens.hypotheses, verbose=0)
            scores.values |= {f"BLEU-{n}": 100 * float(value) for n, value in enumerate(values, 1)}
            scores.bleu_counts = bleu_counts(tokens)
        elif metric in ("CIDEr", "ROUGE-L"):
            from pycocoevalcap.cider.cider import Cider
            from pycocoevalcap.rouge.rouge import Rouge

            scorer = Cider() if metric == "CIDEr" else Rouge()
            value, by_image = scorer.compute_score(tokens.references, tokens.hypotheses)
            scores.values[metric] = 100 * float(value)
            scores.by_image[metric] = 100 * np.asarray(by_image, dtype=np.float64)
        else:
            try:
                value = java_metric(metric, tokens.hypotheses, tokens.references, timeout_s=java_timeout_s)
                scores.values[metric] = 100 * value
            except MetricUnavailableError as error:
                scores.notes.append(str(error))
    return scores


def cider(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """Compute the corpus CIDEr-D x 100; arguments and errors as for `tokenized`."""
    return score(tokenized(hypotheses, references), ["CIDEr"]).values["CIDEr"]


def text_metrics(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Compute CIDEr, BLEU-1..4 and ROUGE-L, each x 100; arguments and errors as for `tokenized`."""
    return score(tokenized(hypotheses, references), WITHOUT_JAVA).values


def cider_by_image(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Compute the CIDEr-D x 100 of each caption by image id; arguments and errors as for `tokenized`."""
    scores = score(tokenized(hypotheses, references), ["CIDEr"])
    return dict(zip(hypotheses, scores.by_image["CIDEr"].tolist(), strict=True))


def bleu_counts(tokens: Tokenized) -> Array:
    """Compute the counts that BLEU sums over images, so that it can be computed for any subset of them.

    Returns:
        [N, 10], per image: matched n-grams and n-grams of the caption for n = 1..4, the caption's length, and
        the length of the reference closest to it.
    """
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

    rows = []
    for name, hypothesis in tokens.hypotheses.items():
        counts = cook_test(hypothesis[0], cook_refs(tokens.references[name]), eff="closest")
        rows.append([*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"]])
    return np.asarray(rows, dtype=np.float64)


def bleu(totals: Array, order: int) -> Array:
    """Compute corpus BLEU x 100 up to n-grams of `order`, from sums of `bleu_counts`: totals [R, 10] -> [R].

    The small constants are pycocoevalcap's.
    """
    correct, guess = totals[:, :order], totals[:, 4 : 4 + order]
    precision = np.prod((correct + 1e-15) / (guess + 1e-9), axis=1) ** (1 / order)
    ratio = (totals[:, 8] + 1e-15) / (totals[:, 9] + 1e-9)
    return 100 * precision * np.exp(np.minimum(0, 1 - 1 / ratio))
