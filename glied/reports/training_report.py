"""Report of training runs: learning curves, sample captions and tables as one self-contained HTML page.

The scalars come from each run's metrics.jsonl, which has the same values as TensorBoard, without the steps
that a resumed run repeated.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

from glied import storage
from glied.config_keys import flat
from glied.errors import UsageError
from glied.reports import figures
from glied.reports.benchmark_tables import Row, Table, read_table
from glied.reports.figures import Panel, Picture, number
from glied.reports.html_templates import data_uri, render_template
from glied.training import history
from glied.training.history import TRAIN, VALIDATION, History

GROUPS = ("Training", "Rewards", "Validation", "Throughput")
"""Groups of scalars, one figure each, in the order of the page."""
NAMES = {
    "images_per_s": "images/s",
    "data_share": "share of the time spent waiting for data",
    "cpu_s": "CPU seconds a step",
    "cider": "CIDEr",
    "map": "mean AP",
    "map_words": "words in mean AP",
    "ap50": "AP50",
}
"""Display names of scalars."""
TABLE_ROWS, SAMPLE_ROWS = 20, 8
"""Maximum number of steps in the tables of a figure, and of sample captions."""

Axis = Literal["step", "epoch"]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The runs and tables to show."""

    runs: list[str] = field(default_factory=list)
    """Run folders of training jobs, shown side by side; the option name --runs may be omitted."""
    out: str
    """The HTML file to write."""
    tables: list[str] = field(default_factory=list)
    """JSON files of benchmarks, such as benchmarks/results/table2.json; each is shown as a table and bars."""
    pictures: str | None = None
    """Folder for the figures as SVG and PNG."""
    axis: Axis = "step"
    """Unit of the x axis; epochs make runs with different batch sizes comparable."""
    title: str = "Training"
    """Heading of the page."""

    def __post_init__(self) -> None:
        """Reject empty and duplicate inputs."""
        if not self.runs and not self.tables:
            raise UsageError("name one or more run folders, or --tables")
        uris = [uri.rstrip("/") for uri in (*self.runs, *self.tables)]
        for uri in uris:
            if uris.count(uri) > 1:
                raise UsageError(f"{uri} is named twice")


@dataclass(frozen=True)
class TrainingReport:
    """Summary of a training report.

    Attributes:
        size: size of the page in bytes.
        figures: titles of its figures.
        pictures: picture files that were written.
        notes: one line for each item that the page lacks.
    """

    size: int
    figures: list[str]
    pictures: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Figure:
    """A picture on the page, with a description and its numbers as tables."""

    title: str
    picture: Picture
    description: str
    tables: list[Table]

    @property
    def image(self) -> str:
        """The picture as a data URI."""
        return data_uri("image/svg+xml", self.picture.svg)

    @property
    def name(self) -> str:
        """Name of the picture files, without suffix."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower())) or "figure"


def make_report(config: ReportConfig) -> TrainingReport:
    """Write the page, and the pictures if requested.

    Raises:
        UsageError: a folder is not a run, a file is not a table, or a run has not logged anything yet.
    """
    runs = labeled([history.read_history(uri) for uri in config.runs])
    tables = [read_table(uri) for uri in config.tables]
    drawn = [curve_figure(title, panels, list(runs)) for title, panels in grouped(runs, config.axis).items()]
    measured = [(table, table_figures(table)) for table in tables]
    samples = sample_tables(runs)
    page = render_template(
        "report",
        title=config.title,
        overview=overview(runs),
        differences=differences(runs),
        figures=drawn,
        samples=samples,
        measured=measured,
        text=text,
    ).encode()
    storage.write_bytes(config.out, page)
    every = [*drawn, *itertools.chain.from_iterable(figures_ for _, figures_ in measured)]
    return TrainingReport(
        len(page), [one.title for one in every], _write(config.pictures, every), _notes(runs)
    )


def labeled(runs: Sequence[History]) -> dict[str, History]:
    """Label the runs with the shortest endings of their folders that are distinct."""
    parts = [[part for part in run.uri.split("/") if part] for run in runs]
    for count in range(1, max(map(len, parts), default=0) + 1):
        labels = ["/".join(one[-count:]) for one in parts]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, runs, strict=True))
    return {run.uri: run for run in runs}


# ---- curves


def grouped(runs: Mapping[str, History], axis: Axis) -> dict[str, list[Panel]]:
    """Build the panels of each figure: one per scalar, with one line per run."""
    groups: dict[str, dict[str, dict[str, figures.Points]]] = {title: {} for title in GROUPS}
    for label, run in runs.items():
        for kind in (TRAIN, VALIDATION):
            for name, points in run.scalars(kind).items():
                if name != "epoch":
                    lines = groups[_group(kind, name)].setdefault(name, {})
                    lines[label] = _over(points, run, axis)
    return {
        title: [Panel(NAMES.get(name, name.replace("_", " ")), axis, lines) for name, lines in panels.items()]
        for title, panels in groups.items()
        if panels
    }


def _group(kind: str, name: str) -> str:
    if kind == VALIDATION:
        return "Validation"
    if name.startswith("reward") or name in ("greedy", "baseline"):
        return "Rewards"
    if name.startswith("seconds_") or name in ("images_per_s", "data_share", "cpu_s"):
        return "Throughput"
    return "Training"


def _over(points: history.Points, run: History, axis: Axis) -> figures.Points:
    return [(step / run.epoch_steps if axis == "epoch" else step, value) for step, value in points]


def curve_figure(title: str, panels: Sequence[Panel], names: Sequence[str] | None = None) -> Figure:
    """Draw a figure of curves with the numbers of each panel; `names` as in `figures.curves`."""
    description = ". ".join(f"{panel.title}: {_course(panel)}" for panel in panels)
    picture = figures.curves(title, panels, names)
    return Figure(title, picture, description, [_numbers(panel) for panel in panels])


def _course(panel: Panel) -> str:
    """Describe the first and last value of each line."""
    return ", ".join(
        f"{name} from {number(points[0][1])} to {number(points[-1][1])}"
        for name, points in panel.lines.items()
    )


def _numbers(panel: Panel) -> Table:
    """Return some points of a panel's lines as a table."""
    places = thinned(sorted({x for points in panel.lines.values() for x, _ in points}), TABLE_ROWS)
    lines = {name: dict(points) for name, points in panel.lines.items()}
    rows: list[Row] = [{panel.axis: x, **{name: line.get(x) for name, line in lines.items()}} for x in places]
    return Table(panel.title, "", rows)


def thinned(items: Sequence[Item], count: int) -> list[Item]:
    """Select at most `count` items, evenly spaced, including the first and last."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


# ---- tables


def overview(runs: Mapping[str, History]) -> Table:
    """Build the table of runs, with a column of remarks if there are any."""
    rows = [_facts(label, run) for label, run in runs.items()]
    remarks = [history.progress_note(run.kind, run.lines) for run in runs.values()]
    if any(remarks):
        rows = [row | {"remark": remark} for row, remark in zip(rows, remarks, strict=True)]
    return Table("Runs", "", rows)


def _facts(label: str, run: History) -> Row:
    best = run.best()
    speeds = [value for _, value in run.scalars(TRAIN).get("images_per_s", [])]
    state = "complete" if run.complete else f"at step {run.steps:,} of {run.total_steps:,}"
    return {
        "run": label,
        "kind": run.kind,
        "state": state,
        "steps": run.steps,
        "training rows": run.config["rows"]["train"],
        "best validation": best and f"{NAMES.get(best.metric, best.metric)} {number(best.value)}",
        "at step": best and best.step,
        "images/s, median": median(speeds) if speeds else None,
        "minutes of training steps": round(run.seconds() / 60, 1),
    }


def differences(runs: Mapping[str, History]) -> Table | None:
    """Build the table of options in which the runs differ; None if there are none."""
    configs = {label: flat(run.config) for label, run in runs.items()}
    keys = dict.fromkeys(itertools.chain.from_iterable(configs.values()))
    rows: list[Row] = [
        {"option": key, **{label: _option(config.get(key)) for label, config in configs.items()}}
        for key in keys
        if key != "trainer.output" and len({repr(config.get(key)) for config in configs.values()}) > 1
    ]
    return Table("Different options", "", rows) if rows else None


def _option(value: Any) -> str | None:
    return None if value is None else str(value)


def sample_tables(runs: Mapping[str, History]) -> list[Table]:
    """Build a table per image, titled by its reference, with the captions of each run by step."""
    captions: dict[str, dict[int, dict[str, str]]] = {}
    for label, run in runs.items():
        for step, samples in run.samples().items():
            for one in samples:
                captions.setdefault(one.reference, {}).setdefault(step, {})[label] = one.caption
    return [
        Table(
            reference,
            "",
            [{"step": step, **by_step[step]} for step in thinned(sorted(by_step), SAMPLE_ROWS)],
        )
        for reference, by_step in captions.items()
    ]


def table_figures(table: Table) -> list[Figure]:
    """Draw the numbers of a table as bars, if it has any."""
    columns = table.numeric()
    if not columns:
        return []
    picture = figures.bars(table.title, table.labels, columns)
    return [Figure(table.title, picture, "The numbers of the table as bars", [])]


def text(value: Any) -> str:
    """Format a cell for display."""
    if value is None:
        return ""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


# ---- files


def _write(folder: str | None, drawn: Iterable[Figure]) -> list[str]:
    if folder is None:
        return []
    written = []
    for name, one in _named(drawn):
        for suffix, data in (("svg", one.picture.svg), ("png", one.picture.png)):
            written.append(storage.join(folder, f"{name}.{suffix}"))
            storage.write_bytes(written[-1], data)
    return written


def _named(drawn: Iterable[Figure]) -> Iterator[tuple[str, Figure]]:
    """Yield each figure with a unique name."""
    taken: set[str] = set()
    for one in drawn:
        later = (f"{one.name}-{count}" for count in itertools.count(2))
        name = next(name for name in itertools.chain([one.name], later) if name not in taken)
        taken.add(name)
        yield name, one


def _notes(runs: Mapping[str, History]) -> list[str]:
    silent = [label for label, run in runs.items() if not run.scalars(VALIDATION)]
    notes = [f"{label} has not been validated yet" for label in silent]
    for label, run in runs.items():
        if note := history.progress_note(run.kind, run.lines):
            notes.append(f"{label}: {note}")
    return notes + [f"{label} is not complete" for label, run in runs.items() if not run.complete]
