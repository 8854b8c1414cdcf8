"""References, descriptions and phrases: form, vocabulary, and variety."""

from collections import Counter

import numpy as np
import pytest

from glied.demo_world.language import describe, plural
from glied.demo_world.world import sample_scene


def words(text: str) -> list[str]:
    """Return the words of a description without commas."""
    return text.replace(",", "").split()


@pytest.fixture(scope="module")
def languages() -> list:
    return [describe(sample_scene("train", index)) for index in range(2000)]


def test_plurals() -> None:
    assert [plural(n) for n in ("man", "sheep", "box", "bench", "puppy", "dog")] == [
        "men", "sheep", "boxes", "benches", "puppies", "dogs",
    ]  # fmt: skip


def test_references_are_plain_lowercase_words(languages: list) -> None:
    for language in languages:
        assert len(language.references) == 5
        for reference in language.references:
            assert reference == " ".join(reference.lower().split())
            assert all(word.isalpha() for word in reference.split())
    lengths = [len(words(r)) for language in languages for r in language.references]
    assert 9 <= np.mean(lengths) <= 13


def test_clauses_make_up_the_description(languages: list) -> None:
    for language in languages:
        assert len(language.clauses) >= 3
        assert language.description.startswith(" ".join(language.clauses[:3]))
        assert Counter(words(" ".join(language.clauses))) - Counter({"with": 9, "and": 9}) == Counter(
            words(language.description)
        ) - Counter({"with": 9, "and": 9})


def test_descriptions_never_name_an_object_twice(languages: list) -> None:
    for language in languages:
        objects = language.phrases["object"]
        assert len(objects) == len(set(objects))
        for phrase in objects:
            assert f" {language.description} ".replace(",", "").count(f" {phrase} ") == 1
        assert len(words(language.description)) <= 55


def test_every_word_of_a_description_occurs_in_references(languages: list) -> None:
    seen = Counter(word for language in languages for r in language.references for word in r.split())
    spoken = {word for language in languages for word in words(language.description)}
    assert {word: seen[word] for word in spoken if seen[word] < 5} == {}
    assert 180 <= len(seen) <= 700


def test_descriptions_fit_into_clip(languages: list) -> None:
    tokenizer = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer()
    assert max(len(tokenizer.encode(language.description)) for language in languages) <= 70


def test_phrases_cover_the_three_criteria(languages: list) -> None:
    for language in languages:
        assert set(language.phrases) == {"background", "object", "relation"}
        assert all(language.phrases.values())


@pytest.mark.slow
def test_leave_one_out_cider_is_like_that_of_human_captions() -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer
    scenes = [describe(sample_scene("test", index)).references for index in range(500)]
    scores = []
    for left_out in range(5):
        cider = scorer()
        for references in scenes:
            others = [text for number, text in enumerate(references) if number != left_out]
            cider += (references[left_out], others)
        scores.append(100 * cider.compute_score()[0])
    assert 70 <= np.mean(scores) <= 130
