import json
from pathlib import Path

import pytest

from glied.data.hard_negatives import FalseText, HardNegativesConfig, load_hard_negatives
from glied.data.pairs import PairsConfig
from glied.errors import UsageError

LINES = [
    {"image": "a.jpg", "kind": "relation", "negatives": {"a dog on a sofa": ["a dog under a sofa"]}},
    {"image": "a.jpg", "kind": "color", "negatives": {"a red": ["a blue"], "an ocean": ["a lake"]}},
    {"image": "b.jpg", "negatives": {"a cat": ["a cow", "a pig"]}},
    {"image": "elsewhere.jpg", "negatives": {"a dog": ["a cat"]}},
]


@pytest.fixture
def pairs(tmp_path: Path) -> PairsConfig:
    lines = [{"image": "a.jpg", "text": ["a dog on a sofa", "a dog"]}, {"image": "b.jpg", "text": "a cat"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return PairsConfig(pairs=str(tmp_path / "pairs.jsonl"))


def write(folder: Path, *lines: object) -> str:
    (folder / "negatives.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "negatives.jsonl")


def test_what_stands_in_a_text_is_replaced(tmp_path: Path, pairs: PairsConfig) -> None:
    found = load_hard_negatives(write(tmp_path, *LINES), pairs)
    assert found.kinds == ("any", "color", "relation")
    dog = "a dog on a sofa, in a room"
    assert found.variants(f"{tmp_path}/a.jpg", dog) == [FalseText("a dog under a sofa, in a room", 2)]
    red = "a reddish dog and a red cat"
    assert found.variants(f"{tmp_path}/a.jpg", red) == [FalseText("a reddish dog and a blue cat", 1)]
    cats = [FalseText("on a cow", 0), FalseText("on a pig", 0)]
    assert found.variants(f"{tmp_path}/b.jpg", "on a cat") == cats
    assert found.variants(f"{tmp_path}/b.jpg", "a category") == []
    assert found.variants(f"{tmp_path}/b.jpg", dog) == [], "another image"
    assert found.variants(f"{tmp_path}/elsewhere.jpg", "a dog") == [], "no image of the pairs"
    assert found.words() == {"a", "blue", "cow", "dog", "under", "sofa", "lake", "pig"}


def test_without_a_file_there_are_none(pairs: PairsConfig) -> None:
    found = load_hard_negatives("", pairs)
    assert found.kinds == ()
    assert found.variants("a.jpg", "a dog") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"image": "a.jpg"},
            'line 1: expected "image" and "negatives", an object with a list of false texts',
        ),
        ({"negatives": {"a": ["b"]}}, 'line 1: expected "image"'),
        ({"image": "a.jpg", "negatives": {"a": "b"}}, 'line 1: expected "image"'),
        ({"image": "a.jpg", "negatives": {"a": [""]}}, 'line 1: expected "image"'),
        ({"image": "a.jpg", "kind": 3, "negatives": {"a": ["b"]}}, 'line 1: expected "image"'),
        ({"image": "c.jpg", "negatives": {"a": ["b"]}}, "names no image of .*pairs.jsonl"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, pairs: PairsConfig, line: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_hard_negatives(write(tmp_path, line), pairs)


def test_bad_settings_are_named(tmp_path: Path, pairs: PairsConfig) -> None:
    with pytest.raises(UsageError, match=r"hard_negatives\.count: 0 is not at least 1"):
        HardNegativesConfig(count=0)
    with pytest.raises(UsageError, match=r"no hard negatives at .*: JSON lines are expected"):
        load_hard_negatives(str(tmp_path / "nothing.jsonl"), pairs)
