"""CIDEr-D compared with pycocoevalcap, and with a plain implementation for given document frequencies."""

import math
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer

from glied.errors import UsageError
from glied.text.cider import DocumentFrequencies, cider_d
from glied.text.ngrams import Packed, count, distinct

WORDS = 12  # few, so that n-grams repeat within captions and are shared


def random_captions(generator: np.random.Generator, number: int, longest: int = 14) -> list[list[int]]:
    return [generator.integers(4, 4 + WORDS, generator.integers(0, longest)).tolist() for _ in range(number)]


def ngrams(words: list[int]) -> Counter:
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def plain_cider_d(hypothesis: list[int], references: list[list[int]], df: Counter, documents: int) -> float:
    """Compute equations 2 to 5 of arXiv 1411.5726 with CIDEr-D's clipping and Gaussian, n-gram by n-gram."""

    def weigh(words: list[int]) -> tuple[dict, list[float]]:
        weights = {g: n * (math.log(documents) - math.log(max(1, df[g]))) for g, n in ngrams(words).items()}
        return weights, [
            math.sqrt(sum(w * w for g, w in weights.items() if len(g) == n)) for n in range(1, 5)
        ]

    ours, our_norms = weigh(hypothesis)
    total = 0.0
    for reference in references:
        theirs, their_norms = weigh(reference)
        difference = max(len(hypothesis) - 1, 0) - max(len(reference) - 1, 0)
        for n in range(1, 5):
            if our_norms[n - 1] and their_norms[n - 1]:
                dot = sum(
                    min(w, theirs[g]) * theirs[g] for g, w in ours.items() if len(g) == n and g in theirs
                )
                cosine = dot / (our_norms[n - 1] * their_norms[n - 1])
                total += cosine * math.exp(-(difference**2) / (2 * 6.0**2)) / 4
    return 10 * total / len(references)


def test_equals_pycocoevalcap_on_a_thousand_random_sets() -> None:
    generator = np.random.default_rng(0)
    references = [random_captions(generator, int(generator.integers(1, 6))) for _ in range(1000)]
    hypotheses = random_captions(generator, 1000)
    references[0], references[1], references[2] = [[], [5]], [[]], [[5], [6]]
    hypotheses[0], hypotheses[1], hypotheses[2], hypotheses[3] = [], [4], [5], references[3][0]
    scorer = CiderScorer()
    for hypothesis, own in zip(hypotheses, references, strict=True):
        scorer += (" ".join(map(str, hypothesis)), [" ".join(map(str, one)) for one in own])
    _, expected = scorer.compute_score()
    packed = [Packed.of(own) for own in references]
    found = cider_d(Packed.of(hypotheses), 1, packed, DocumentFrequencies.of(packed))
    assert len({len(one) for one in hypotheses} & {0, 1}) == 2
    assert np.abs(found[:, 0] - expected).max() < 1e-6
    assert expected.max() > 1


def test_equals_the_formula_with_a_table_of_other_images() -> None:
    generator = np.random.default_rng(1)
    corpus = [random_captions(generator, 3) for _ in range(200)]
    df: Counter = Counter()
    for own in corpus:
        df.update({g for one in own for g in ngrams(one)})
    table = DocumentFrequencies.of(Packed.of(own) for own in corpus)
    references = [random_captions(generator, 1 + i % 5) for i in range(40)]
    hypotheses = [[*own[:3], 99] for i in range(40) for own in random_captions(generator, 6)]
    found = cider_d(Packed.of(hypotheses), 6, [Packed.of(own) for own in references], table)
    expected = [
        [plain_cider_d(one, own, df, 200) for one in hypotheses[6 * i : 6 * i + 6]]
        for i, own in enumerate(references)
    ]
    assert found.shape == (40, 6)
    assert np.abs(found - np.array(expected)).max() < 1e-6
    assert len(table) == len(df), "looking up adds nothing"


def test_frequencies_are_exact_for_every_ngram() -> None:
    corpus = [[[4, 5, 6], [4, 5]], [[4, 5, 4, 5]], [[7]]]
    table = DocumentFrequencies.of(Packed.of(own) for own in corpus)
    four, four_five, unknown = (
        distinct(Packed.of([[4]])),
        distinct(Packed.of([[4, 5]])),
        np.uint64([0, 2**64 - 1]),
    )
    assert table.documents == 3
    assert table.inverse(four) == pytest.approx([math.log(3 / 2)])
    assert sorted(table.inverse(four_five)) == pytest.approx([math.log(3 / 2)] * 3)
    assert table.inverse(unknown) == pytest.approx([math.log(3)] * 2)


def test_merging_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = [Packed.of(random_captions(np.random.default_rng(i), 3)) for i in range(25)]
    whole = DocumentFrequencies.of(corpus)
    monkeypatch.setattr("glied.text.cider._CHUNK", 10)
    parts = DocumentFrequencies.of(corpus)
    assert np.array_equal(whole.hashes, parts.hashes)
    assert np.array_equal(whole.counts, parts.counts)


def test_counts_by_hand() -> None:
    counts = count(Packed.of([[4, 4], [5]]), 1, [Packed.of([[4, 4, 4]]), Packed.of([[5], [6]])])
    sums = counts.sum(counts.counts)  # [B, N, C]
    assert sums[0].tolist() == [[2, 3, 0], [1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert sums[1].tolist() == [[1, 1, 1]] + [[0, 0, 0]] * 3
    assert counts.lengths.tolist() == [[2, 3, 0], [1, 1, 1]]
    assert counts.real.tolist() == [[True, True, False], [True, True, True]]


def test_stored_tables_name_the_captions_they_were_counted_over(tmp_path) -> None:
    table = DocumentFrequencies.of([Packed.of([[4, 5, 6]]), Packed.of([[4, 9]])])
    table.save(str(tmp_path / "df"), references="abc", vocabulary="v" * 64)
    loaded = DocumentFrequencies.load(str(tmp_path / "df"), references="abc", vocabulary="v" * 64)
    assert loaded.documents == 2
    assert np.array_equal(loaded.hashes, table.hashes)
    assert np.array_equal(loaded.counts, table.counts)
    with pytest.raises(UsageError, match=r"counted with vocabulary vvvvvvvvvvvv, this run has wwwwwwwwwwww"):
        DocumentFrequencies.load(str(tmp_path / "df"), references="abc", vocabulary="w" * 64)
    with pytest.raises(UsageError, match=r"no checkpoint in .*prepare_cider\.py makes it"):
        DocumentFrequencies.load(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="at least one image"):
        DocumentFrequencies.of([])
