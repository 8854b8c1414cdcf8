import json
import pickle
from pathlib import Path

import pytest

from glied.data.pairs import Pair, PairsConfig
from glied.errors import UsageError


def lines(folder: Path, *items: object) -> PairsConfig:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    return PairsConfig(pairs=str(folder / "pairs.jsonl"))


def test_json_lines(tmp_path):
    pairs = lines(
        tmp_path,
        {"image": "a.jpg", "text": "a dog"},
        {"image": "x/b.jpg", "text": ["a dog on grass", "a dog"], "clauses": ["a dog", "on grass"], "id": 7},
    )
    assert pairs.all == [
        Pair(f"{tmp_path}/a.jpg", ["a dog"], []),
        Pair(f"{tmp_path}/x/b.jpg", ["a dog on grass", "a dog"], ["a dog", "on grass"]),
    ]
    elsewhere = PairsConfig(pairs=pairs.pairs, images="s3://bucket/images/")
    assert elsewhere.all[0].image == "s3://bucket/images/a.jpg"
    assert elsewhere.digest != pairs.digest == PairsConfig(pairs=pairs.pairs).digest


def test_captions_file_of_coco(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": text} for text in ("a dog", "the dog")],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    pairs = PairsConfig(pairs=str(tmp_path / "captions.json"))
    assert pairs.all == [Pair(f"{tmp_path}/images/a.jpg", ["a dog", "the dog"], [])]


def test_only_the_fields_are_pickled(tmp_path):
    pairs = lines(tmp_path, {"image": "a.jpg", "text": "a dog"})
    assert pairs.all
    assert "all" not in vars(pickle.loads(pickle.dumps(pairs)))
    assert pickle.loads(pickle.dumps(pairs)) == pairs


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "a"}, 'line 2: expected an object with "image"'),
        ("a.jpg", 'expected an object with "image"'),
        ({"image": "a.jpg"}, "line 2: expected \"text\".*got 'None'"),
        ({"image": "a.jpg", "text": []}, 'expected "text"'),
        ({"image": "a.jpg", "text": ["a", " "]}, 'expected "text"'),
        ({"image": "a.jpg", "text": "a", "clauses": "a b"}, '"clauses" must be a list'),
    ],
)
def test_invalid_lines_are_named(tmp_path, item, message):
    with pytest.raises(UsageError, match=message):
        assert lines(tmp_path, {"image": "a.jpg", "text": "a"}, item).all


def test_missing_empty_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match="no pairs at"):
        assert PairsConfig(pairs=str(tmp_path / "none.jsonl")).all
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="has no pairs"):
        assert PairsConfig(pairs=str(tmp_path / "empty.jsonl")).all
    (tmp_path / "broken.jsonl").write_text('{"image": "a.jpg"\n')
    with pytest.raises(UsageError, match="line 1: not JSON"):
        assert PairsConfig(pairs=str(tmp_path / "broken.jsonl")).all
