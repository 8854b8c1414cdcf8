import math

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from glied.text.bleu import bleu_4
from glied.text.ngrams import Packed


def test_equals_nltk_s_second_smoothing() -> None:
    generator = np.random.default_rng(0)
    references = [
        [generator.integers(4, 10, generator.integers(4, 12)).tolist() for _ in range(1 + i % 5)]
        for i in range(100)
    ]
    hypotheses = [generator.integers(4, 10, generator.integers(4, 12)).tolist() for _ in range(200)]
    found = bleu_4(Packed.of(hypotheses), 2, [Packed.of(own) for own in references])
    smoothing = SmoothingFunction().method2  # Lin and Och 2004
    for image, own in enumerate(references):
        for sample in range(2):
            expected = sentence_bleu(own, hypotheses[2 * image + sample], smoothing_function=smoothing)
            assert found[image, sample] == pytest.approx(expected, abs=1e-9)


def test_empty_short_and_foreign_captions() -> None:
    references = [Packed.of([[4, 5, 6, 7], [4, 5]])] * 4
    found = bleu_4(Packed.of([[], [9, 9, 9], [4], [4, 5, 6, 7]]), 1, references)[:, 0]
    assert found[0] == found[1] == 0
    assert found[2] == pytest.approx(math.exp(1 - 2 / 1))
    assert found[3] == pytest.approx(1)
