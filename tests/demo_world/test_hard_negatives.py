import itertools
from collections import Counter

import pytest

from glied.demo_world.catalog import COLORS
from glied.demo_world.dataset import annotation, negative_lines
from glied.demo_world.hard_negatives import KINDS, edited, hard_negatives
from glied.demo_world.language import article, describe
from glied.demo_world.plan import stream
from glied.demo_world.scene_precision import mentions, relations, statements
from glied.demo_world.world import sample_scene
from glied.text.tokenizer import tokenize

JUDGED = {"relation": "relations", "color": "colors", "object": "objects"}


@pytest.fixture(scope="module")
def world() -> list[tuple[dict, dict]]:
    found = []
    for index in range(150):
        scene = sample_scene("train", index)
        row = annotation(scene, describe(scene))
        found.append((row, hard_negatives(row, stream("train", 0, "negatives", index))))
    return found


def each(world):
    """Scene, kind, true caption and variant of all variants."""
    for row, negatives in world:
        for kind, captions in negatives.items():
            for caption, variants in captions.items():
                for variant in variants:
                    yield row, kind, caption, variant


def test_every_variant_is_judged_false_in_its_criterion_alone(world) -> None:
    for row, kind, caption, variant in each(world):
        before, after = (Counter(statements(text, row)) for text in (caption, variant))
        key = JUDGED[kind]
        assert after[key, False] == before[key, False] + 1, (kind, caption, variant)
        assert (
            after["colors", True] + after["colors", False] == before["colors", True] + before["colors", False]
        )
        if kind != "object":  # the color and the relations of an object that is not there are wrong, too
            others = [other for other in JUDGED.values() if other != key]
            assert all(after[other, False] == before[other, False] for other in others), (caption, variant)


def test_every_variant_differs_in_exactly_one_place(world) -> None:
    for _, kind, caption, variant in each(world):
        old, new = tokenize(caption), tokenize(variant)
        was, now = mentions(old), mentions(new)
        assert len(was) == len(now)
        kinds = sum(a.kinds != b.kinds for a, b in zip(was, now, strict=True))
        colors = sum(a.colors != b.colors for a, b in zip(was, now, strict=True))
        stated = [[one.relations for one in relations(*both)] for both in ((old, was), (new, now))]
        assert len(stated[0]) == len(stated[1])
        changed = sum(a != b for a, b in zip(*stated, strict=True))
        assert (kinds, colors, changed) == tuple(int(kind == one) for one in ("object", "color", "relation"))
        if kind == "color":
            assert (
                sum(
                    a != b
                    for a, b in zip(old, new, strict=True)
                    if {a, b} & {*COLORS, "golden", "tan", "grey"}
                )
                == 1
            )


def test_variants_are_good_english(world) -> None:
    for _, _, _, variant in each(world):
        words = variant.replace(",", "").split()
        pairs = list(itertools.pairwise(words))
        assert all(one == article(after) for one, after in pairs if one in ("a", "an")), variant
        assert "woman in a shirt" not in variant


def test_there_are_many_of_each_kind_and_they_stand_in_the_descriptions(world) -> None:
    counts = Counter(kind for _, kind, _, _ in each(world))
    assert counts.keys() == set(KINDS)
    assert min(counts.values()) > 3 * len(world)
    for row, negatives in world:
        for captions in negatives.values():
            for caption in captions:
                assert caption in row["description"] or caption in row["captions"]
    described = sum(
        any(caption in row["description"] for caption in negatives.get("relation", ()))
        for row, negatives in world
    )
    related = sum(bool(row["relations"]) for row, _ in world)
    assert described > 0.8 * related


def test_they_depend_on_the_scene_alone(world) -> None:
    row, negatives = world[3]
    assert hard_negatives(row, stream("train", 0, "negatives", 3)) == negatives
    lines = list(negative_lines(row, negatives))
    assert [line["kind"] for line in lines] == list(negatives)
    assert {line["image"] for line in lines} == {"images/train-000003.jpg"}


def test_edits_keep_commas_and_fit_articles() -> None:
    text = "an orange ball, a red cup and a cat"
    assert edited(text, {2: ["vase"], 1: ["red"]}) == "a red vase, a red cup and a cat"
    assert edited(text, {4: ["orange"]}) == "an orange ball, an orange cup and a cat"
    assert edited("a toy ball, a cat", {1: ["cup"], 2: ()}) == "a cup, a cat"
