"""One self-contained HTML page of captioned images: captions, regions, attributes, references, scores."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from PIL import Image

from glied import storage
from glied.errors import ImageError, StorageError
from glied.evaluation.text_metrics import cider_by_image
from glied.vision.images import decode

THUMBNAIL_SIDE = 480


@dataclass(frozen=True)
class RegionBox:
    """A labeled box in upright pixels."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Card:
    """What the page shows of one image; `image` is a base64 JPEG or None, `score` CIDEr x 100 or None."""

    id: str
    caption: str | None
    error: str | None
    image: str | None
    width: int
    height: int
    regions: list[RegionBox]
    attributes: list[str]
    references: list[str]
    score: float | None


def render_gallery(
    rows: Sequence[Mapping[str, Any]],
    *,
    references: Mapping[str, Sequence[str]] | None = None,
    title: str = "Captions",
    most_regions: int = 8,
    most_attributes: int = 10,
) -> str:
    """The page for rows of a bulk run.

    Args:
        rows: rows with the columns of `glied.bulk.sinks.CAPTIONS`.
        references: reference captions by image id, for scores and for reading beside.
        title: heading of the page.
        most_regions: boxes drawn per image, best first.
        most_attributes: attribute words named per image.
    """
    references = references or {}
    captioned = {row["id"]: row["caption"] for row in rows if row["caption"] and references.get(row["id"])}
    scores = cider_by_image(captioned, references) if captioned else {}
    cards = [
        _card(row, references.get(row["id"], ()), scores.get(row["id"]), most_regions, most_attributes)
        for row in rows
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glied.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("gallery.html").render(title=title, cards=cards)


def _card(
    row: Mapping[str, Any], references: Sequence[str], score: float | None, regions: int, attributes: int
) -> Card:
    boxes = [
        RegionBox(x, y, right - x, bottom - y, region["label"])
        for region in (row["regions"] or [])[:regions]
        for x, y, right, bottom in [region["box"]]
    ]
    return Card(
        id=row["id"],
        caption=row["caption"],
        error=row["error"] or row["status"],
        image=_thumbnail(row["uri"]) if row["status"] == "ok" else None,
        width=row["width"] or 1,
        height=row["height"] or 1,
        regions=boxes,
        attributes=[attribute["word"] for attribute in (row["attributes"] or [])[:attributes]],
        references=list(references),
        score=score,
    )


def _thumbnail(uri: str) -> str | None:
    """The image as a base64 JPEG of at most `THUMBNAIL_SIDE` pixels a side; None if it is no longer there."""
    try:
        image = Image.fromarray(decode(storage.read_bytes(uri)))
    except (FileNotFoundError, StorageError, ImageError):
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=85)
    return base64.b64encode(sink.getvalue()).decode()
