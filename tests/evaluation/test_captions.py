import json
from pathlib import Path

import pytest

from glied.errors import UsageError
from glied.evaluation.captions import read_captions, read_references


def references(folder: Path) -> str:
    images = [{"id": 7, "file_name": "x.jpg"}, {"id": 9, "file_name": "y.jpg"}]
    annotations = [{"id": n, "image_id": image, "caption": f"text {n}"} for n, image in enumerate([7, 7, 9])]
    path = folder / "references.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


def test_coco_results_and_jsonl_match_by_id_or_name(tmp_path: Path) -> None:
    coco, lines = tmp_path / "results.json", tmp_path / "results.jsonl"
    coco.write_text(json.dumps([{"image_id": 9, "caption": "b"}, {"image_id": 7, "caption": "a"}]))
    lines.write_text('{"id": "deep/er/x.jpg", "caption": "a"}\n{"id": "y.jpg", "caption": "b"}\n')
    assert read_captions(str(coco)) == {"9": "b", "7": "a"}
    assert read_captions(str(lines)) == {"x.jpg": "a", "y.jpg": "b"}
    assert read_references(references(tmp_path), ["9"]) == {"9": ["text 2"]}
    assert read_references(references(tmp_path), ["x.jpg"]) == {"x.jpg": ["text 0", "text 1"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "named twice"),
        ('[{"caption": "a"}]', "needs image_id"),
        ('[{"image_id": 1}]', "needs image_id"),
        ("{", "not valid JSON"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_captions(str(path))


def test_unknown_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 captioned images: z\.jpg"):
        read_references(references(tmp_path), ["x.jpg", "z.jpg"])
    with pytest.raises(UsageError, match="no manifest"):
        read_captions(str(tmp_path))
