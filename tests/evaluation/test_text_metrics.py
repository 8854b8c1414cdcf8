import shutil

import pytest
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from glied.errors import UsageError
from glied.evaluation.text_metrics import cider, cider_by_image, text_metrics

REFERENCES = {
    "a": ["A man rides a brown horse.", "a person on a horse", "man riding"],
    "b": ["Two dogs, both white, run on the beach!", "dogs at the sea"],
    "c": ["A red kite over a field.", "someone's kite in the sky"],
}
HYPOTHESES = {"a": "a man on a horse", "b": "two white dogs", "c": ""}


def test_perfect_captions_reach_the_top() -> None:
    perfect = {name: texts[0] for name, texts in REFERENCES.items()}
    metrics = text_metrics(perfect, REFERENCES)
    assert metrics["BLEU-1"] == pytest.approx(100, abs=1e-4)
    assert metrics["ROUGE-L"] == pytest.approx(100)
    assert metrics["CIDEr"] > text_metrics(HYPOTHESES, REFERENCES)["CIDEr"] > 0


def test_an_empty_caption_scores_nothing_and_counts() -> None:
    by_image = cider_by_image(HYPOTHESES, REFERENCES)
    assert by_image["c"] == 0
    assert cider(HYPOTHESES, REFERENCES) == pytest.approx(sum(by_image.values()) / 3)


def test_mistakes_are_named() -> None:
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
