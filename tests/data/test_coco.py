import json
from pathlib import Path
from typing import Any

import pytest

from glied.data import coco
from glied.errors import UsageError

IMAGES = [{"id": 7, "file_name": "b.jpg", "width": 4, "height": 3}, {"id": 3, "file_name": "a.jpg"}]
ANNOTATIONS = [
    {"id": 0, "image_id": 3, "caption": "a dog"},
    {"id": 1, "image_id": 7, "caption": "a cat"},
    {"id": 2, "image_id": 3, "caption": "a brown dog"},
]


def save(path: Path, content: Any) -> str:
    file = path / "captions.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_captions_by_file_name_in_order(tmp_path: Path) -> None:
    uri = save(tmp_path, {"images": IMAGES, "annotations": ANNOTATIONS})
    assert coco.load_captions(uri) == {"b.jpg": ["a cat"], "a.jpg": ["a dog", "a brown dog"]}
    assert [image.id for image in coco.load_images(uri)] == [7, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no captions: it is an empty list"),
        ({"images": []}, "no list 'annotations'"),
        ({"images": [{"id": 1}], "annotations": []}, "no 'file_name'"),
        (
            {
                "images": IMAGES,
                "annotations": [{"image_id": 9, "caption": "x"}, {"image_id": 3, "caption": " "}],
            },
            r"none of its 2 images has a caption \(1 empty captions, 1 captions of images that are not",
        ),
        ({"images": [*IMAGES, {"id": 7, "file_name": "c.jpg"}], "annotations": []}, "is a duplicate"),
        ({"images": [*IMAGES, {"id": 8, "file_name": "b.jpg"}], "annotations": []}, "is a duplicate"),
    ],
)
def test_invalid_files_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        coco.load_captions(save(tmp_path, content))


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no caption file"):
        coco.load_captions(str(tmp_path / "none.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        coco.load_captions(str(tmp_path / "broken.json"))


def test_a_written_file_reads_as_the_same_images(tmp_path: Path) -> None:
    images = [
        coco.CaptionedImage(7, "b.jpg", ["a cat", "a cät"], 4, 3),
        coco.CaptionedImage(3, "a.jpg", ["a dog"]),
    ]
    (tmp_path / "captions.json").write_bytes(coco.write_captions(images))
    assert coco.load_images(str(tmp_path / "captions.json")) == images


def test_an_image_is_found_by_its_unique_name_stem_and_id() -> None:
    first, second = coco.CaptionedImage(12, "7.jpg", ["x"]), coco.CaptionedImage(7, "a.jpg", ["x"])
    known = coco.by_alias([first, second])
    assert known == {"7.jpg": first, "12": first, "a.jpg": second, "a": second}  # "7" is ambiguous
