"""The gallery as one HTML file: what it says of each image as JSON, and the template around it.

The page builds its text from that JSON without markup, and its content security policy lets nothing run but
the script of the template, so that no caption, id or error can become code.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glied.captioner.explain import Explanation, Weights
from glied.regions import Regions
from glied.reports.html_templates import render_template

SCORES = {
    "cider": "CIDEr",
    "log_probability": "log-probability",
    "clip": "CLIP-S",
    "familiarity": "familiarity",
}
"""What a page can be sorted and filtered by, and how it is called; better is higher."""
MOST_WEIGHTS = 6
"""Regions and attributes kept of each word's attention, the strongest first."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on the page.

    Attributes:
        name: heading of its images, where the page has several runs.
        total: images of the run, of which the entries may be the first.
        model: names the weights.
        missing: what stands in the place of a good image that has no picture.
    """

    name: str = ""
    total: int
    model: str
    missing: str = ""


def entry(
    row: Mapping[str, Any],
    *,
    run: int = 0,
    references: Sequence[str] = (),
    cider: float | None = None,
    picture: str | None = None,
    explained: tuple[Regions, Explanation] | None = None,
) -> dict[str, Any]:
    """What the page knows of an image.

    Args:
        row: of a bulk run, with the columns of `glied.bulk.row_schemas.CAPTIONS`.
        run: position of the run among those of the page.
        references: to read beside the caption.
        cider: x 100.
        picture: base64 WebP; without, the page shows a placeholder.
        explained: the caption's explanation and the regions that it is over, which then replace the row's.
    """
    scores = {
        "cider": cider,
        "log_probability": log_probability(row),
        "clip": row["clip_score"],
        "familiarity": row.get("familiarity"),
    }
    plain = {
        name: row[name] for name in ("id", "status", "caption", "error_kind", "error", "width", "height")
    }
    return plain | {
        "run": run,
        "picture": picture,
        "captions": [[one["text"], _rounded(one["log_probability"])] for one in row["captions"] or []],
        "references": list(references),
        "scores": {name: _rounded(value) for name, value in scores.items()},
        "regions": _boxes(explained[0]) if explained else _row_boxes(row["regions"] or []),
        "attributes": [[one["word"], _rounded(one["probability"])] for one in row["attributes"] or []],
        "attention": _attention(row, explained[1]) if explained else None,
    }


def log_probability(row: Mapping[str, Any]) -> float | None:
    """Of a row's caption; None where it has none."""
    return row["captions"][0]["log_probability"] if row["captions"] else None


def render(entries: Sequence[Mapping[str, Any]], *, title: str, runs: Sequence[Run]) -> str:
    """The page.

    Args:
        entries: of `entry`, in the order of the page: those of the first run, then those of the next.
        title: its heading.
        runs: those of the entries.
    """
    used = {
        name: label for name, label in SCORES.items() if any(e["scores"][name] is not None for e in entries)
    }
    data = {"entries": entries, "scores": used, "runs": [dataclasses.asdict(run) for run in runs]}
    return render_template("gallery", title=title, data=data)


def _boxes(regions: Regions) -> list[list[Any]]:
    """[x, y, width, height, label, score] of each region, in upright pixels."""
    found = zip(regions.boxes.tolist(), regions.labels, regions.scores.tolist(), strict=True)
    return [_box(box, label, score) for box, label, score in found]


def _row_boxes(regions: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [_box(one["box"], one["label"], one["score"]) for one in regions]


def _box(box: Sequence[float], label: str, score: float) -> list[Any]:
    x, y, right, bottom = box
    return [round(x), round(y), round(right - x), round(bottom - y), label, _rounded(score)]


def _attention(row: Mapping[str, Any], found: Explanation) -> dict[str, Any]:
    """The strongest weights of an explanation, heads averaged, by the positions in the row's attributes.

    A list of weights is [position, percent, position, percent, ...], the strongest first. "global" and
    "local" hold one list for each word, "groupings" one for each region, "collocations" one for each of its
    "pivots": the word before, or where the model has no pivot an attribute.
    """
    places = {one["word"]: place for place, one in reversed(list(enumerate(row["attributes"] or [])))}
    attributes = [places[word] for word in found.attributes]
    collocations, pivots = found.collocations, ["", *found.words[:-1]]
    if found.attribute_groupings is not None:
        collocations, pivots = found.attribute_groupings.transpose(1, 0, 2), found.attributes
    return {
        "words": found.words,
        "probabilities": [_rounded(math.exp(value)) for value in found.log_probabilities[:-1].tolist()],
        "global": {
            "regions": _strongest(found.regions_global),
            "attributes": _strongest(found.attributes_global, attributes),
        },
        "local": {
            "regions": _strongest(found.regions_local),
            "attributes": _strongest(found.attributes_local, attributes),
        },
        "groupings": _strongest(None if found.groupings is None else found.groupings.transpose(1, 0, 2)),
        "pivots": pivots,
        "collocations": _strongest(collocations, attributes),
    }


def _strongest(weights: Weights | None, names: Sequence[int] | None = None) -> list[list[int]] | None:
    """[M, H, S] to M lists of at most `MOST_WEIGHTS` pairs of position and percent; None stays None."""
    if weights is None or not weights.size:
        return None
    percents = np.rint(100 * weights.mean(axis=1)).astype(int)
    order = np.argsort(-percents, axis=1, kind="stable")[:, :MOST_WEIGHTS]
    return [
        [
            value
            for place in places.tolist()
            if row[place] > 0
            for value in (names[place] if names else place, int(row[place]))
        ]
        for row, places in zip(percents, order, strict=True)
    ]


def _rounded(value: float | None) -> float | None:
    """Three digits are enough to look at; what is not finite is not JSON."""
    return None if value is None or not math.isfinite(value) else round(value, 3)
