import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from glied.evaluation.gallery import render_gallery


def row(folder: Path, name: str, **values: Any) -> dict[str, Any]:
    sink = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(sink, "JPEG")
    (folder / name).write_bytes(sink.getvalue())
    region = {"box": [1.0, 2.0, 30.0, 20.0], "label": "<b>dog", "score": 0.9}
    found = {"regions": [region], "attributes": [{"word": "dog", "probability": 0.8}]}
    base = {"id": name, "uri": str(folder / name), "caption": "a dog", "width": 60, "height": 40}
    return base | found | {"status": "ok", "error": None} | values


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_escapes_text_and_embeds_images(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "a.jpg", caption="<script>alert(1)</script>"),
        row(
            tmp_path,
            "b.jpg",
            status="rejected",
            caption=None,
            regions=None,
            attributes=None,
            error="empty: no",
        ),
    ]
    page = render_gallery(rows, references={"a.jpg": ["a dog", "the dog"]}, title="T & T")
    parser = Tags()
    parser.feed(page)
    tags = [tag for tag, _ in parser.tags]
    assert tags.count("script") == 1
    assert tags.count("b") == 0
    assert tags.count("article") == 2
    assert [attributes["src"][:23] for tag, attributes in parser.tags if tag == "img"] == [
        "data:image/jpeg;base64,"
    ]
    assert [attributes["width"] for tag, attributes in parser.tags if tag == "rect"] == ["29.0"]
    assert "empty: no" in page
    assert "http" not in page


def test_an_image_that_is_gone_leaves_its_caption(tmp_path: Path) -> None:
    gone = row(tmp_path, "a.jpg")
    (tmp_path / "a.jpg").unlink()
    page = render_gallery([gone])
    assert "a dog" in page
    assert "<img" not in page
