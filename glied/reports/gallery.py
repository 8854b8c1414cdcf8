"""Gallery of captioned runs: one self-contained HTML page for browsing their captions."""

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
"""Placeholder text for images that the page lacks."""


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """The runs to show, and how."""

    run: tuple[str, ...] | str
    """Run folder of jobs/caption_dataset.py, or several: --run A B shows the images of A first."""
    out: str
    """The HTML file to write."""
    references: str | None = None
    """Captions file, for scores and for display. It may cover only some of several runs."""
    names: tuple[str, ...] = ()
    """Headings of several runs, e.g. --names Photographs Scenes; by default the names of their folders."""
    title: str = "Captions"
    """Heading of the page."""
    limit: int = 2000
    """Maximum number of images per run; each adds 13 kB (scenes) to 20 kB (photographs)."""
    explain: int = 200
    """Maximum number of images per run with explanations of their words; each takes about 50 ms on one core.
    0 for none."""
    images: str | None = None
    """Folder or prefix of the images, which are named by the ids of the run. Needed if the images have moved,
    or if the run captioned published features."""
    explain_order: Literal["first", "worst", "best"] = "first"
    """Which images to explain: the first of the run, or those with the worst or best score (CIDEr; without
    references the log-probability)."""

    def __post_init__(self) -> None:
        """Reject invalid numbers, and names that do not match the runs."""
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
        """Return the heading of a run by its index."""
        return self.names[place] if self.names else base_name(self.runs[place].rstrip("/"))


@dataclass
class GalleryReport:
    """Summary of a gallery page.

    Attributes:
        images: number of images on the page.
        total: number of images in the runs.
        pictures: number of images that could be read.
        explained: number of images with explanations.
        size: size of the page in bytes.
        notes: one line for each item that the page lacks.
    """

    images: int = 0
    total: int = 0
    pictures: int = 0
    explained: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)


def make_gallery(config: GalleryConfig) -> GalleryReport:
    """Write the page of one or several runs.

    Raises:
        UsageError: a folder is not a finished run, or the references lack its images.
    """
    report = GalleryReport()
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
    report: GalleryReport,
) -> Iterator[Row]:
    """Yield the page's entries for the images of a run."""
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
    """Describe a run for the page."""
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
    config: GalleryConfig, run: str, rows: Sequence[Row], scores: Mapping[str, float], report: GalleryReport
) -> Iterator[tuple[str | None, Any]]:
    """Yield picture and explanation of each row of a run; None for missing ones."""
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


def _explainer(config: GalleryConfig, run: str, report: GalleryReport) -> Explainer | None:
    """Load the models of a run, or return None if they are not needed or no longer available."""
    if not config.explain:
        return None
    try:
        return Explainer.load(run)
    except GliedError as error:
        report.notes.append(f"captions cannot be explained: {error}")
        return None


def _chosen(config: GalleryConfig, rows: Sequence[Row], scores: Mapping[str, float]) -> set[str]:
    """Select the ids of the images to explain."""
    captioned = [row for row in rows if row["caption"] and row["caption_source"] != "input"]
    if config.explain_order != "first":
        scored = scores or {row["id"]: gallery_page.log_probability(row) or -math.inf for row in captioned}
        captioned.sort(key=lambda row: scored[row["id"]], reverse=config.explain_order == "best")
    return {row["id"] for row in captioned[: config.explain]}


def _references(uri: str | None, rows: Sequence[Sequence[Row]]) -> list[dict[str, list[str]]]:
    """Load the references of the captioned images of each run by id; the file may cover only some runs.

    Raises:
        UsageError: the file covers a run only in part, or none of the runs.
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
    """Compute CIDEr x 100 of each captioned row that has references."""
    captions = {row["id"]: row["caption"] or "" for row in rows if references.get(row["id"])}
    return cider_by_image(captions, references) if captions else {}
