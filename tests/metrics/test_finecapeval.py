from pathlib import Path

import pytest

from glied.data.finecapeval import Annotation, load_annotations
from glied.demo_world.dataset import finecapeval
from glied.errors import UsageError
from glied.metrics.finecapeval import overall_captions, published_recall, stems, word_recall

HEADER = "image,caption,background,object,relation\n"
PUBLISHED = (
    HEADER
    + r"a.jpg,A dog rides a board at the sea.,sandy beach\;sea,dogs,dog rides board"
    + "\n"
    + r'a.jpg,"A dog, wet.",beach,,'
    + "\n"
    + r'b.jpg,A red kite.,"field, green\;  \;--",red kite,None'
    + "\n\n"
)
CAPTIONS = {"a.jpg": "A Dog is riding on the beaches", "b.jpg": "a red kite over green fields"}


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "finecapeval.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_published_form_is_read(tmp_path: Path) -> None:
    rows = load_annotations(written(tmp_path, b"\xef\xbb\xbf" + PUBLISHED.encode()))
    assert [row.image for row in rows] == ["a.jpg", "a.jpg", "b.jpg"]
    assert rows[0].phrases("background") == ["sandy beach", "sea"]
    assert rows[1].caption == "A dog, wet."
    assert rows[1].phrases("object") == []
    assert rows[2].phrases("background") == ["field, green", "--"]
    assert rows[2].relation == ""
    assert [row.complete for row in rows] == [True, False, False]
    assert overall_captions(rows) == {
        "a.jpg": ["A dog rides a board at the sea.", "A dog, wet."],
        "b.jpg": ["A red kite."],
    }


def test_the_demo_worlds_file_is_read(tmp_path: Path) -> None:
    phrases = {"background": ["blue sky", "sand"], "object": ["red kite"], "relation": []}
    text = finecapeval([{"file_name": "s.jpg", "description": "a kite, red", "phrases": phrases}])
    (row,) = load_annotations(written(tmp_path, text))
    assert row == Annotation("s.jpg", "a kite, red", "blue sky\\;sand", "red kite", "")
    assert {criterion: row.phrases(criterion) for criterion in phrases} == phrases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the columns are ; expected image, caption"),
        ("image,caption,object\n", "the columns are image, caption, object; expected"),
        (HEADER, "has no rows"),
        (HEADER + "a.jpg,c,b,o,r\nb.jpg,c,b,o\n", r"row 2 \(line 3\): 4 fields instead of 5"),
        (HEADER + '"a.jpg","c\nd",b,o,r\n ,c,b,o,r\n', r"row 2 \(line 4\): no image"),
        (HEADER + 'a.jpg,c,b,o,r\nb.jpg,"c,b,o,r\n', r"row 2 \(line 3\): unexpected end of data"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_other_files_are_refused_with_the_row(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_annotations(written(tmp_path, text))
    with pytest.raises(UsageError, match="no FineCapEval file"):
        load_annotations(str(tmp_path / "none.csv"))


def test_stems_are_words_of_letters_and_digits() -> None:
    assert stems("Two (wet) dogs' T-shirts, riding!") == ["two", "wet", "dog", "tshirt", "ride"]


def test_word_recall_by_hand(tmp_path: Path) -> None:
    recall = word_recall(CAPTIONS, load_annotations(written(tmp_path, PUBLISHED)))
    # a.jpg, stems a dog is ride on the beach: sandy beach 1/2, sea 0, and the second annotator's beach 1.
    assert recall["background"] == {"a.jpg": pytest.approx(0.5), "b.jpg": 1.0}
    assert recall["object"] == {"a.jpg": 1.0, "b.jpg": 1.0}
    # b.jpg has no relation, so it has no value instead of 0.
    assert recall["relation"] == {"a.jpg": pytest.approx(2 / 3)}


def test_published_recall_by_hand(tmp_path: Path) -> None:
    """Incomplete rows are dropped; "beach" is in "beaches", "ride" not in "riding", "dog" not in "Dog"."""
    recall = published_recall(CAPTIONS, load_annotations(written(tmp_path, PUBLISHED)))
    assert recall == {"background": {"a.jpg": 0.25}, "object": {"a.jpg": 0.0}, "relation": {"a.jpg": 0.0}}


def test_published_recall_pools_annotators_and_counts_wordless_phrases() -> None:
    rows = [
        Annotation("a.jpg", "c", "Sandy\\;--", "cat", "x"),
        Annotation("a.jpg", "c", "the cat\\;c", "dog", "-"),
    ]
    recall = published_recall({"a.jpg": "concatenated"}, rows)
    # sandi 0, -- 0, "the cat" 1/2. A single character ("c", "x", "-") is not a phrase; no phrases give 0.
    assert recall == {
        "background": {"a.jpg": pytest.approx(1 / 6)},
        "object": {"a.jpg": 0.5},
        "relation": {"a.jpg": 0},
    }
