import json
import re
from pathlib import Path

import pytest

from glied.errors import UsageError
from glied.reports.caption_inputs import check_found, find_references, match_captions, read_captions

ALIASES = {"x.jpg": ["x.jpg", "7"], "y.jpg": ["y.jpg", "9"], "z.jpg": ["z.jpg", "11"]}


def references(folder: Path) -> str:
    images = [{"id": 7, "file_name": "x.jpg"}, {"id": 9, "file_name": "y.jpg"}]
    annotations = [{"id": n, "image_id": image, "caption": f"text {n}"} for n, image in enumerate([7, 7, 9])]
    path = folder / "references.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


def test_coco_results_and_jsonl_match_by_id_or_name(tmp_path: Path) -> None:
    coco, lines = tmp_path / "results.json", tmp_path / "results.jsonl"
    coco.write_text(json.dumps([{"image_id": 9, "caption": "b"}, {"image_id": 7, "caption": "a"}]))
    lines.write_text('{"id": "deep/er/x.jpg", "caption": "a"}\n{"id": "y.jpg", "caption": null}\n\n')
    assert read_captions(str(coco)) == {"9": "b", "7": "a"}
    assert read_captions(str(lines)) == {"deep/er/x.jpg": "a", "y.jpg": ""}
    assert find_references(references(tmp_path), ["9"]) == {"9": ["text 2"]}
    assert find_references(references(tmp_path), ["in/x.jpg"]) == {"in/x.jpg": ["text 0", "text 1"]}
    assert find_references(references(tmp_path), ["x.jpg"]) == {"x.jpg": ["text 0", "text 1"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            "1 images are named twice: 1, 1",
        ),
        ('[{"caption": "a"}]', "needs image_id"),
        ('[{"image_id": 1}]', "needs image_id"),
        ('[{"image_id": true, "caption": "a"}]', "needs image_id"),
        ('[{"image_id": 1, "caption": ["a", "b"]}]', "1 has 2 captions, but only one can be scored"),
        ('[{"image_id": 1, "caption": NaN}]', "needs image_id"),
        ("[3]", "needs image_id"),
        ('{"images": []}', "no list 'annotations'"),
        ("{", "not JSON"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        read_captions(str(path))


def test_unknown_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 captioned images: z\.jpg"):
        check_found("refs", ["x.jpg", "z.jpg"], find_references(references(tmp_path), ["x.jpg", "z.jpg"]))
    with pytest.raises(UsageError, match="no manifest"):
        read_captions(str(tmp_path))


def test_captions_are_matched_by_any_name_in_the_order_of_the_references() -> None:
    captions = {"11": "c", "x.jpg": "a", "9": "b"}
    matched = match_captions(captions, ALIASES, uri="c", source="r")
    assert list(matched.items()) == [("x.jpg", "a"), ("y.jpg", "b"), ("z.jpg", "c")]
    assert match_captions({"9": "b"}, ALIASES, uri="c", source="r", partial=True) == {"y.jpg": "b"}


def test_an_ambiguous_alias_is_dropped_and_exact_names_are_kept() -> None:
    aliases = {"a.jpg": ["a"], "a.png": ["a"], "b": ["b"], "b.jpg": ["b"]}
    captions = {"a.jpg": "1", "a.png": "2", "b": "3", "b.jpg": "4"}
    assert match_captions(captions, aliases, uri="c", source="r") == captions
    with pytest.raises(UsageError, match=r"lacks 1 captioned images: a$"):
        match_captions({"a": "1"}, aliases, uri="c", source="r")


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({"x.jpg": "a", "7": "b", "y.jpg": "c", "z.jpg": "d"}, "c: 1 images are named twice: x.jpg, 7"),
        ({"x.jpg": "a", "q.jpg": "b"}, "c: r lacks 1 captioned images: q.jpg"),
        ({"x.jpg": "a"}, "c: 2 of the 3 images of r have no caption: y.jpg, z.jpg. --partial true scores"),
        ({}, "c: 3 of the 3 images of r have no caption: x.jpg, y.jpg, z.jpg"),
        (dict.fromkeys("abcdefgh", ""), "lacks 8 captioned images: a, b, c, d, e, ..."),
    ],
)
def test_missing_duplicate_and_unknown_images_are_refused_by_name(
    captions: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        match_captions(captions, ALIASES, uri="c", source="r")


def test_a_partial_file_without_any_known_image_is_refused() -> None:
    with pytest.raises(UsageError, match="have no caption"):
        match_captions({}, ALIASES, uri="c", source="r", partial=True)
