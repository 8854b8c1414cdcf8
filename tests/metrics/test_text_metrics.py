import shutil

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from glied.errors import UsageError
from glied.metrics.text_metrics import (
    WITHOUT_JAVA,
    bleu,
    bleu_counts,
    cider,
    cider_by_image,
    score,
    text_metrics,
    tokenized,
)

REFERENCES = {
    "a": ["A man rides a brown horse.", "a person on a horse", "man riding"],
    "b": ["Two dogs, both white, run on the beach!", "dogs at the sea"],
    "c": ["A red kite over a field.", "someone's kite in the sky"],
}
HYPOTHESES = {"a": "a man on a horse", "b": "two white dogs", "c": ""}


def test_perfect_captions_have_the_maximum() -> None:
    perfect = {name: texts[0] for name, texts in REFERENCES.items()}
    metrics = text_metrics(perfect, REFERENCES)
    assert metrics["BLEU-1"] == pytest.approx(100, abs=1e-4)
    assert metrics["ROUGE-L"] == pytest.approx(100)
    assert metrics["CIDEr"] > text_metrics(HYPOTHESES, REFERENCES)["CIDEr"] > 0


def test_an_empty_caption_scores_zero_and_counts() -> None:
    by_image = cider_by_image(HYPOTHESES, REFERENCES)
    assert by_image["c"] == 0
    assert cider(HYPOTHESES, REFERENCES) == pytest.approx(sum(by_image.values()) / 3)


def test_errors_name_the_image() -> None:
    with pytest.raises(UsageError, match="no captions"):
        text_metrics({}, REFERENCES)
    with pytest.raises(UsageError, match="1 captions have no references: z"):
        text_metrics({"z": "a dog"}, REFERENCES)


@pytest.mark.skipif(shutil.which("java") is None, reason="the COCO tokenizer is a Java program")
def test_cider_equals_that_of_the_coco_tools() -> None:
    tokenizer = PTBTokenizer()
    references = tokenizer.tokenize({k: [{"caption": t} for t in v] for k, v in REFERENCES.items()})
    hypotheses = tokenizer.tokenize({k: [{"caption": v}] for k, v in HYPOTHESES.items()})
    expected, _ = Cider().compute_score(references, hypotheses)
    assert cider(HYPOTHESES, REFERENCES) == pytest.approx(100 * expected, abs=1e-6)


def test_cider_rewards_the_right_caption() -> None:
    right = cider({"a": "a person on a horse", "b": "dogs at the sea", "c": "a red kite"}, REFERENCES)
    assert (
        cider({"a": "a red kite", "b": "a person on a horse", "c": "dogs at the sea"}, REFERENCES)
        < 0.2 * right
    )


def test_one_caption_by_hand() -> None:
    """The first caption: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples and 0 of 1 match; the second: none."""
    metrics = text_metrics({"a": "a dog runs fast", "b": "x"}, {"a": ["a dog runs"], "b": ["y"]})
    assert metrics["BLEU-1"] == pytest.approx(100 * 3 / 5, abs=1e-4)
    assert metrics["BLEU-2"] == pytest.approx(100 * (3 / 5 * 2 / 3) ** 0.5, abs=1e-4)
    assert metrics["BLEU-3"] == pytest.approx(100 * (3 / 5 * 2 / 3 * 1 / 2) ** (1 / 3), abs=1e-4)
    assert metrics["BLEU-4"] == pytest.approx(0, abs=0.1)
    precision, recall = 3 / 4, 1
    rouge = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert metrics["ROUGE-L"] == pytest.approx(100 * rouge / 2)


def test_scores_equal_pycocoevalcaps_own() -> None:
    words = sorted({word for texts in REFERENCES.values() for text in texts for word in text.split()})
    generator = np.random.default_rng(0)
    texts = [
        [" ".join(generator.choice(words, size=generator.integers(4, 13))) for _ in range(5)]
        for _ in range(60)
    ]
    tokens = tokenized(
        {str(n): first for n, (first, *_) in enumerate(texts)},
        {str(n): others for n, (_, *others) in enumerate(texts)},
    )
    scores = score(tokens, WITHOUT_JAVA)
    gts, res = tokens.references, tokens.hypotheses
    for scorer, name in ((Cider(), "CIDEr"), (Rouge(), "ROUGE-L")):
        value, by_image = scorer.compute_score(gts, res)
        assert scores.values[name] == pytest.approx(100 * value, abs=1e-6)
        assert scores.by_image[name] == pytest.approx(100 * np.array(by_image), abs=1e-6)
    values, _ = Bleu(4).compute_score(gts, res, verbose=0)
    assert [scores.values[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 * v for v in values])


def test_bleu_from_counts_equals_corpus_bleu_of_any_selection() -> None:
    tokens = tokenized(HYPOTHESES, REFERENCES)
    counts = bleu_counts(tokens)
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    for row in weights:
        drawn = [name for name, times in zip(HYPOTHESES, row, strict=True) for _ in range(times)]
        gts = {n: tokens.references[name] for n, name in enumerate(drawn)}
        res = {n: tokens.hypotheses[name] for n, name in enumerate(drawn)}
        expected, _ = Bleu(4).compute_score(gts, res, verbose=0)
        found = [bleu(row[None] @ counts, order)[0] for order in (1, 2, 3, 4)]
        assert found == pytest.approx([100 * value for value in expected], rel=1e-9, abs=1e-9)
