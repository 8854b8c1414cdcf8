"""A gallery of captioned runs: one self-contained HTML page to look through their captions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, Literal

from glied import storage
from glied.bulk.plan import manifest
from glied.bulk.row_schemas import OK
from glied.bulk.run.committed_rows import read_rows
from glied.errors import GliedError, UsageError
from glied.metrics.text_metrics import cider_by_image
from glied.reports import gallery_page
from glied.reports.caption_inputs import base_name, check_found, find_references
from glied.reports.gallery_images import (
    Explainer,
    one_thread,
    read_pictures,
    read_regions,
    sees_images,
    thumbnail,
)

Row = dict[str, Any]

UNREADABLE = "The image can no longer be read."
NOT_SEEN = "The run captioned stored features; --images shows its images."
"""What stands in the place of an image that the page lacks."""


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """What to show."""

    run: tuple[str, ...] | str
    """Run folder of jobs/caption_dataset.py, or several: --run A B shows the images of A first."""
    out: str
    """The HTML file to write."""
    references: str | None = None
    """Captions file in the COCO form, for scores and for reading beside. Of several runs, those whose images
    it knows have references."""
    names: tuple[str, ...] = ()
    """Headings of several runs, --names Photographs Scenes; by default the names of their folders."""
    title: str = "Captions"
    """Heading of the page."""
    limit: int = 2000
    """Most images of a run, its first; each takes 13 kB (scenes) to 20 kB (photographs)."""
    explain: int = 200
    """Most images of a run whose words show what they looked at; each costs about 50 ms on a core. 0 for
    none."""
    images: str | None = None
    """Folder or prefix below which the run's ids name its images, where they are no longer where the run read
    them, or where the run captioned published features."""
    explain_order: Literal["first", "worst", "best"] = "first"
    """Which ones: the first of the run, or those that score worst or best (CIDEr; without references the
    caption's log-probability)."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no page, and names that are not those of the runs."""
        if self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be at least 1")
        if self.explain < 0:
            raise UsageError(f"explain is {self.explain}: it must be at least 0")
        if not self.runs:
            raise UsageError("run names no run folder")
        if self.names and len(self.names) != len(self.runs):
            raise UsageError(f"names has {len(self.names)} headings for {len(self.runs)} runs")

    @property
    def runs(self) -> tuple[str, ...]:
        """The run folders."""
        return (self.run,) if isinstance(self.run, str) else self.run

    def name(self, place: int) -> str:
        """Heading of the run at a place among the runs."""
        return self.names[place] if self.names else base_name(self.runs[place].rstrip("/"))


@dataclass
class Report:
    """What is on a page.

    Attributes:
        images: entries of the page.
        total: images of the runs.
        pictures: images that could be read.
        explained: images whose words show what they looked at.
        size: bytes of the page.
        notes: a line on each thing that the page lacks.
    """

    images: int = 0
    total: int = 0
    pictures: int = 0
    explained: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)


def make_gallery(config: GalleryConfig) -> Report:
    """Write the page of one or several runs.

    Raises:
        UsageError: a run is none or is not finished, or the references do not know its images.
    """
    report = Report()
    rows = [list(islice(read_rows(run), config.limit)) for run in config.runs]
    references = _references(config.references, rows)
    entries: list[Row] = []
    shown = []
    with one_thread():
        for place in range(len(config.runs)):
            entries += _entries(config, place, rows[place], references[place], report)
            shown.append(_shown(config, place, rows[place]))
            report.total += shown[place].total
    report.images = len(entries)
    html = gallery_page.render(entries, title=config.title, runs=shown).encode()
    storage.write_bytes(config.out, html)
    report.size = len(html)
    return report


def _entries(
    config: GalleryConfig,
    place: int,
    rows: Sequence[Row],
    references: Mapping[str, Sequence[str]],
    report: Report,
) -> Iterator[Row]:
    """What the page knows of the images of a run."""
    scores = _cider(rows, references)
    seen = _seen(config, config.runs[place], rows, scores, report)
    for row, (picture, explained) in zip(rows, seen, strict=True):
        yield gallery_page.entry(
            row,
            run=place,
            references=references.get(row["id"], ()),
            cider=scores.get(row["id"]),
            picture=picture,
            explained=explained,
        )


def _shown(config: GalleryConfig, place: int, rows: Sequence[Row]) -> gallery_page.Run:
    """What the page says of a run."""
    run = config.runs[place]
    plan = manifest.load(run)
    assert plan is not None, "its rows were read"
    return gallery_page.Run(
        name=config.name(place),
        total=plan.images,
        model=", ".join(sorted({row["model"] for row in rows})),
        missing=UNREADABLE if sees_images(run, config.images) else NOT_SEEN,
    )


def _seen(
    config: GalleryConfig, run: str, rows: Sequence[Row], scores: Mapping[str, float], report: Report
) -> Iterator[tuple[str | None, Any]]:
    """Picture and explanation of each row of a run; None where there is none."""
    explainer = _explainer(config, run, report)
    chosen = _chosen(config, rows, scores) if explainer else set()
    ok = read = 0
    extractor = explainer.extractor if explainer else None
    resolution = extractor.resolution if extractor else None
    pictures = read_pictures(run, rows, resolution, images=config.images)
    stored = read_regions(run, rows) if explainer and extractor is None else repeat(None, len(rows))
    for row, picture, regions in zip(rows, pictures, stored, strict=True):
        ok += row["status"] == OK
        explained = None
        if picture is not None:
            read += 1
            if explainer and row["id"] in chosen:
                explained = explainer(row, picture, regions)
                report.explained += 1
        yield None if picture is None else thumbnail(picture), explained
    report.pictures += read
    of = f" of {run}" if len(config.runs) > 1 else ""
    if not sees_images(run, config.images):
        report.notes.append(f"the run{of} captioned stored features: --images FOLDER shows its images")
    elif read < ok:
        where = f" below {config.images}" if config.images else of
        report.notes.append(f"{ok - read} of {ok} images can no longer be read{where}")


def _explainer(config: GalleryConfig, run: str, report: Report) -> Explainer | None:
    """The models of a run, unless they are not wanted or no longer there."""
    if not config.explain:
        return None
    try:
        return Explainer.load(run)
    except GliedError as error:
        report.notes.append(f"words cannot show what they looked at: {error}")
        return None


def _chosen(config: GalleryConfig, rows: Sequence[Row], scores: Mapping[str, float]) -> set[str]:
    """Ids of the images to explain."""
    captioned = [row for row in rows if row["caption"]]
    if config.explain_order != "first":
        scored = scores or {row["id"]: gallery_page.log_probability(row) or -math.inf for row in captioned}
        captioned.sort(key=lambda row: scored[row["id"]], reverse=config.explain_order == "best")
    return {row["id"] for row in captioned[: config.explain]}


def _references(uri: str | None, rows: Sequence[Sequence[Row]]) -> list[dict[str, list[str]]]:
    """References of the captioned images of each run by id; of several runs, those that the file knows.

    Raises:
        UsageError: the file lacks images of a run that it knows, or knows none of the runs.
    """
    if uri is None:
        return [{} for _ in rows]
    names = [[row["id"] for row in run if row["status"] == OK] for run in rows]
    found = [find_references(uri, run) for run in names]
    for run, known in zip(names, found, strict=True):
        if known or not any(found):
            check_found(uri, run, known)
    return found


def _cider(rows: Sequence[Row], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr x 100 of each captioned row that has references."""
    captions = {row["id"]: row["caption"] or "" for row in rows if references.get(row["id"])}
    return cider_by_image(captions, references) if captions else {}
