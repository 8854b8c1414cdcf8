import pytest

from glied.demo_world.dataset import annotation
from glied.demo_world.invented_relations import InventedRelations
from glied.demo_world.language import describe
from glied.demo_world.world import sample_scene

SCENE = {
    "file_name": "a.jpg",
    "objects": [
        {"class": "woman", "attributes": ["pink"], "box": [30, 150, 84, 274]},
        {"class": "umbrella", "attributes": ["red"], "box": [48, 90, 115, 170]},
        {"class": "dog", "attributes": ["brown"], "box": [110, 230, 141, 270]},
    ],
    "relations": [[0, "holding", 1]],
    "captions": ["a lady holding a red umbrella", "a dog next to a woman"],
    "description": "a woman in a pink dress holding a red umbrella",
}


def test_only_what_no_true_caption_states_is_invented() -> None:
    invents = InventedRelations([SCENE])
    assert not invents("a.jpg", "a woman holding a parasol")
    assert invents("a.jpg", "a woman riding an umbrella")
    assert invents("a.jpg", "a dog holding an umbrella")
    assert not invents("a.jpg", "a dog to the right of a woman"), "unheard of, but true"
    assert not invents("a.jpg", "an umbrella and a dog"), "states no relation"
    assert not invents("b.jpg", "a woman riding an umbrella"), "no scene"


def test_a_false_relation_that_is_true_elsewhere_is_not_invented() -> None:
    elsewhere = {**SCENE, "file_name": "b.jpg", "captions": ["a dog above an umbrella"]}
    assert InventedRelations([SCENE])("a.jpg", "a dog above an umbrella")
    assert not InventedRelations([SCENE, elsewhere])("a.jpg", "a dog above an umbrella")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    scenes = [sample_scene("val", index) for index in range(200)]
    return [annotation(scene, describe(scene)) for scene in scenes]


def test_references_of_scenes_invent_nothing(rows) -> None:
    invents = InventedRelations(rows)
    assert not any(invents(row["file_name"], caption) for row in rows for caption in row["captions"])
    others = zip(rows, rows[7:], strict=False)
    assert not any(invents(row["file_name"], other["description"]) for row, other in others)
