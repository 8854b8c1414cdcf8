"""A gallery of a captioned run: one self-contained HTML page to look through its captions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, Literal

from glied import storage
from glied.bulk import manifest
from glied.bulk.results import read_rows
from glied.bulk.sinks import OK
from glied.errors import GliedError, UsageError
from glied.evaluation import page
from glied.evaluation.captions import read_references
from glied.evaluation.pictures import (
    Explainer,
    one_thread,
    read_pictures,
    read_regions,
    sees_images,
    thumbnail,
)
from glied.evaluation.text_metrics import cider_by_image

Row = dict[str, Any]

UNREADABLE = "The image can no longer be read."
NOT_SEEN = "The run captioned stored features; --images shows its images."
"""What stands in the place of an image that the page lacks."""


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """What to show."""

    run: str
    """Run folder of jobs/caption_dataset.py."""
    out: str
    """The HTML file to write."""
    references: str | None = None
    """Captions file in the COCO form, for scores and for reading beside."""
    title: str = "Captions"
    """Heading of the page."""
    limit: int = 2000
    """Most images on the page, the first of the run; each takes 13 kB (scenes) to 20 kB (photographs)."""
    explain: int = 200
    """Most images whose words show what they looked at; each costs about 50 ms on a core. 0 for none."""
    images: str | None = None
    """Folder or prefix below which the run's ids name its images, where they are no longer where the run read
    them, or where the run captioned published features."""
    explain_order: Literal["first", "worst", "best"] = "first"
    """Which ones: the first of the run, or those that score worst or best (CIDEr; without references the
    caption's log-probability)."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no page."""
        if self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be at least 1")
        if self.explain < 0:
            raise UsageError(f"explain is {self.explain}: it must be at least 0")


@dataclass
class Report:
    """What is on a page.

    Attributes:
        images: entries of the page.
        total: images of the run.
        pictures: images that could be read.
        explained: images whose words show what they looked at.
        size: bytes of the page.
        notes: a line on each thing that the page lacks.
    """

    images: int
    total: int
    pictures: int = 0
    explained: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)


def make_gallery(config: GalleryConfig) -> Report:
    """Write the page of a run.

    Raises:
        UsageError: the run is none or is not finished, or the references do not know its images.
    """
    rows = list(islice(read_rows(config.run), config.limit))
    plan = manifest.load(config.run)
    assert plan is not None, "its rows were read"
    report = Report(len(rows), plan.images)
    references = _references(config.references, rows)
    scores = _cider(rows, references)
    entries = []
    with one_thread():
        for row, (picture, explained) in zip(rows, _seen(config, rows, scores, report), strict=True):
            known = references.get(row["id"], ())
            score = scores.get(row["id"])
            entries.append(
                page.entry(row, references=known, cider=score, picture=picture, explained=explained)
            )
    models = sorted({row["model"] for row in rows})
    missing = UNREADABLE if sees_images(config.run, config.images) else NOT_SEEN
    html = page.render(
        entries, title=config.title, total=report.total, model=", ".join(models), missing=missing
    ).encode()
    storage.write_bytes(config.out, html)
    report.size = len(html)
    return report


def _seen(
    config: GalleryConfig, rows: Sequence[Row], scores: Mapping[str, float], report: Report
) -> Iterator[tuple[str | None, Any]]:
    """Picture and explanation of each row; None where there is none."""
    explainer = _explainer(config, report)
    chosen = _chosen(config, rows, scores) if explainer else set()
    ok = 0
    extractor = explainer.extractor if explainer else None
    resolution = extractor.resolution if extractor else None
    pictures = read_pictures(config.run, rows, resolution, images=config.images)
    stored = read_regions(config.run, rows) if explainer and extractor is None else repeat(None, len(rows))
    for row, picture, regions in zip(rows, pictures, stored, strict=True):
        ok += row["status"] == OK
        explained = None
        if picture is not None:
            report.pictures += 1
            if explainer and row["id"] in chosen:
                explained = explainer(row, picture, regions)
                report.explained += 1
        yield None if picture is None else thumbnail(picture), explained
    if not sees_images(config.run, config.images):
        report.notes.append("the run captioned stored features: --images FOLDER shows its images")
    elif report.pictures < ok:
        where = f" below {config.images}" if config.images else ""
        report.notes.append(f"{ok - report.pictures} of {ok} images can no longer be read{where}")


def _explainer(config: GalleryConfig, report: Report) -> Explainer | None:
    """The models of the run, unless they are not wanted or no longer there."""
    if not config.explain:
        return None
    try:
        return Explainer.load(config.run)
    except GliedError as error:
        report.notes.append(f"words cannot show what they looked at: {error}")
        return None


def _chosen(config: GalleryConfig, rows: Sequence[Row], scores: Mapping[str, float]) -> set[str]:
    """Ids of the images to explain."""
    captioned = [row for row in rows if row["caption"]]
    if config.explain_order != "first":
        scored = scores or {row["id"]: page.log_probability(row) or -math.inf for row in captioned}
        captioned.sort(key=lambda row: scored[row["id"]], reverse=config.explain_order == "best")
    return {row["id"] for row in captioned[: config.explain]}


def _references(uri: str | None, rows: Sequence[Row]) -> dict[str, list[str]]:
    """References of the captioned rows by id."""
    if uri is None:
        return {}
    return read_references(uri, [row["id"] for row in rows if row["status"] == OK])


def _cider(rows: Sequence[Row], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr x 100 of each captioned row that has references."""
    captions = {row["id"]: row["caption"] or "" for row in rows if references.get(row["id"])}
    return cider_by_image(captions, references) if captions else {}
