import pytest

from glied.demo_world.dataset import annotation
from glied.demo_world.language import describe
from glied.demo_world.scene_precision import mentions, precision, relations, statements
from glied.demo_world.world import sample_scene
from glied.text.tokenizer import tokenize

SCENE = {
    "objects": [
        {"class": "woman", "attributes": ["pink"], "box": [30, 150, 84, 274]},
        {"class": "umbrella", "attributes": ["red", "striped"], "box": [48, 90, 115, 170]},
        {"class": "dog", "attributes": ["brown", "small"], "box": [110, 230, 141, 270]},
        {"class": "pond", "attributes": [], "box": [0, 200, 190, 290]},
    ],
    "relations": [[0, "holding", 1]],
}


def found(caption: str) -> list[tuple[str, bool]]:
    return list(statements(caption, SCENE))


def test_objects_and_their_colors():
    assert found("a woman in a pink dress") == [("objects", True), ("colors", True)]
    assert found("a tan puppy and a golden retriever") == [("objects", True), ("colors", True)]
    assert found("two grey dogs near a pond")[:2] == [("objects", True), ("colors", False)]
    assert found("a blue vehicle") == [("objects", False), ("colors", False)]
    assert found("a park bench in the park") == [("objects", False)]
    assert found("there is a view of it at sunset") == []


def test_relations_from_either_side_and_by_position():
    assert found("a lady holding a stripy red parasol")[-1] == ("relations", True)
    assert found("a dog holding an umbrella")[-1] == ("relations", False)
    assert found("a small dog that is standing to the right of the woman")[-1] == ("relations", True)
    assert found("a dog left of a woman")[-1] == ("relations", False)
    assert found("a woman in a pink dress with a parasol above her")[-1] == ("relations", True)
    assert found("a woman with a dog above her")[-1] == ("relations", False)
    assert [criterion for criterion, _ in found("a woman and a dog")] == ["objects", "objects"]


def test_long_nouns_win_over_short_ones():
    words = tokenize("a wall clock next to a flower vase on the wall")
    assert [sorted(mention.kinds) for mention in mentions(words)] == [["clock"], ["vase"], ["wall"]]
    assert [stated.relations for stated in relations(words, mentions(words))] == [
        {"next to", "left of", "right of"}
    ]


def test_shares_are_of_what_is_named():
    captions = {"a": "a woman with a red dog", "b": "a cat on a brown dog"}
    shares = precision(captions, {"a": SCENE, "b": SCENE})
    assert shares["objects"] == 75
    assert shares["colors"] == 50
    assert shares["relations"] == 0
    assert (shares["named objects"], shares["named relations"]) == (2, 0.5)
    assert "colors" not in precision({"a": "a woman"}, {"a": SCENE})


@pytest.fixture(scope="module")
def world():
    scenes = [sample_scene("val", index) for index in range(120)]
    return [(annotation(scene, language), language) for scene in scenes for language in [describe(scene)]]


def test_true_captions_are_right_and_those_of_other_scenes_are_not(world):
    lines = {str(number): line for number, (line, _) in enumerate(world)}
    for texts in (lambda annotated: annotated.references[0], lambda annotated: annotated.description):
        captions = {str(number): texts(annotated) for number, (_, annotated) in enumerate(world)}
        right = precision(captions, lines)
        assert right["objects"] > 99
        assert right["colors"] > 98
        assert right["relations"] > 98
        elsewhere = {str((number + 7) % len(world)): captions[str(number)] for number in range(len(world))}
        wrong = precision(elsewhere, lines)
        assert max(wrong[criterion] for criterion in ("objects", "colors", "relations")) < 60
