"""Rendering of the gallery as one HTML file: entries as JSON, embedded in a template.

The page builds its text from that JSON without interpreting markup, and its content security policy allows
only the script of the template, so captions, ids and errors cannot inject code.
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
"""Scores by which a page can be sorted and filtered, with their labels; higher is better."""
FLAGS = {
    "low_clip_score": "low CLIP-S",
    "repeats": "repeats itself",
    "truncated": "cut at its maximum length",
}
"""Columns by which a page can be filtered, with their labels."""
SOURCES = {"input": "kept", "input+model": "appended", "model+input": "prepended"}
"""What was done with captions that images had already, by the column caption_source."""
MOST_WEIGHTS = 6
"""Number of regions and attributes to keep of each word's attention, strongest first."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on the page.

    Attributes:
        name: heading of its images on pages with several runs.
        total: number of images in the run; the page may show only the first ones.
        model: name of the weights.
        missing: placeholder text for images without a picture.
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
    """Build the page's entry of an image.

    Args:
        row: row of a bulk run, with the columns of `glied.bulk.row_schemas.CAPTIONS`.
        run: index of the run on the page.
        references: references to display.
        cider: CIDEr x 100.
        picture: base64 WebP; without it the page shows a placeholder.
        explained: explanation of the caption, and its regions, which replace those of the row.
    """
    scores = {
        "cider": cider,
        "log_probability": log_probability(row),
        "clip": row["clip_score"],
        "familiarity": row.get("familiarity"),
    }
    source = row.get("caption_source")
    plain = {
        name: row[name] for name in ("id", "status", "caption", "error_kind", "error", "width", "height")
    }
    return plain | {
        "run": run,
        "picture": picture,
        "captions": [[one["text"], _rounded(one.get("log_probability"))] for one in row["captions"] or []],
        "about": [_about(one) for one in row["captions"] or []],
        "flags": [name for name in FLAGS if row.get(name)] + ([source] if source in SOURCES else []),
        "references": list(references),
        "scores": {name: _rounded(value) for name, value in scores.items()},
        "regions": _boxes(explained[0]) if explained else _row_boxes(row["regions"] or []),
        "attributes": [[one["word"], _rounded(one["probability"])] for one in row["attributes"] or []],
        "attention": _attention(row, explained[1]) if explained else None,
    }


def log_probability(row: Mapping[str, Any]) -> float | None:
    """Return the log-probability of a row's caption, or None."""
    return row["captions"][0].get("log_probability") if row["captions"] else None


def model_text(row: Mapping[str, Any]) -> str:
    """Return a row's caption as its captioner wrote it."""
    first = row["captions"][0] if row["captions"] else {}
    return first.get("raw_text") or row["caption"]


def _about(caption: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a caption beside its log-probability."""
    found = {
        "prompt": caption.get("prompt"),
        "clip": _rounded(caption.get("clip_score")),
        "raw": caption.get("raw_text"),
    }
    return {name: value for name, value in found.items() if value is not None}


def render(entries: Sequence[Mapping[str, Any]], *, title: str, runs: Sequence[Run]) -> str:
    """Render the page.

    Args:
        entries: results of `entry`, run by run in the order of the page.
        title: heading of the page.
        runs: the runs of the entries.
    """
    used = {
        name: label for name, label in SCORES.items() if any(e["scores"][name] is not None for e in entries)
    }
    flags = {
        name: label for name, label in (FLAGS | SOURCES).items() if any(name in e["flags"] for e in entries)
    }
    shown = [dataclasses.asdict(run) for run in runs]
    data = {"entries": entries, "scores": used, "flags": flags, "runs": shown}
    return render_template("gallery", title=title, data=data)


def _boxes(regions: Regions) -> list[list[Any]]:
    """Return [x, y, width, height, label, score] of each region, in upright pixels."""
    columns = zip(regions.boxes.tolist(), regions.labels, regions.scores.tolist(), strict=True)
    return [_box(box, label, score) for box, label, score in columns]


def _row_boxes(regions: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [_box(one["box"], one["label"], one["score"]) for one in regions]


def _box(box: Sequence[float], label: str, score: float) -> list[Any]:
    x, y, right, bottom = box
    return [round(x), round(y), round(right - x), round(bottom - y), label, _rounded(score)]


def _attention(row: Mapping[str, Any], found: Explanation) -> dict[str, Any]:
    """Return the strongest weights of an explanation, averaged over heads, by position in the row's columns.

    A list of weights is [position, percent, position, percent, ...], strongest first. "global" and "local"
    have one list per word, "groupings" one per region, and "collocations" one per element of "pivots", which
    are the previous words, or the attributes if the model has no pivot.
    """
    places = {one["word"]: place for place, one in reversed(list(enumerate(row["attributes"] or [])))}
    attributes = [places[word] for word in found.attributes]
    collocations, pivots = found.collocations, ["", *found.words[:-1]]
    if found.attribute_groupings is not None:
        collocations, pivots = found.attribute_groupings.transpose(1, 0, 2), found.attributes
    return {
        "words": found.words,
        "written": row["captions"][0].get("raw_text") is not None if row["captions"] else False,
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
    """Convert [M, H, S] to M lists of at most `MOST_WEIGHTS` pairs of position and percent.

    None stays None.
    """
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
    """Round to three decimals for display; None for values that are not finite, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else round(value, 3)
