"""The report of training runs: its page, the files beside it, and its errors."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from glied.commands import report
from glied.config import run
from glied.errors import UsageError
from glied.reports.training_report import ReportConfig, grouped, labeled, make_report, thinned
from glied.training.history import read_history
from tests.reports.test_benchmark_tables import captioners, written
from tests.training.logged import make_run

EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)>'\""


class Page(HTMLParser):
    """A parsed page: tables by caption, headings, and descriptions of the images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.headings: list[str] = []
        self.descriptions: list[str] = []
        self.tags: list[str] = []
        self._rows: list[list[str]] = []
        self._text = ""
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._text = ""
        if tag == "img":
            self.descriptions.append(dict(attrs)["alt"] or "")
        if tag == "tr":
            self._rows.append([])

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3"):
            self.headings.append(self._text)
        if tag == "caption":
            self._rows = self.tables.setdefault(self._text, [])
        if tag in ("td", "th"):
            self._rows[-1].append(self._text)


def test_runs_are_shown_side_by_side(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "base"),
        make_run(tmp_path / "glied", scale=2.0, steps=25, complete=False, references=["a kite"]),
    ]
    found = make_report(ReportConfig(runs=runs, out=str(tmp_path / "r.html"), title="Two runs"))
    page = Page(tmp_path / "r.html")
    assert found.size == (tmp_path / "r.html").stat().st_size
    assert found.figures == ["Training", "Validation", "Throughput"]
    assert found.notes == ["glied is not complete"]
    assert page.headings == ["Runs", *found.figures, "Captions over time", "a dog", "a kite"]
    header, base, glied = page.tables["Runs"]
    assert dict(zip(header, base, strict=True)) == {
        "run": "base", "kind": "captioner", "state": "complete", "steps": "40", "training rows": "81",
        "best validation": "CIDEr 30", "at step": "30", "images/s, median": "20",
        "minutes of training steps": "0.3",
    }  # fmt: skip
    assert glied[2:6] == ["at step 25 of 40", "25", "81", "CIDEr 40"]
    expected = [["option", "base", "glied"], ["task.model.scale", "1.0", "2.0"]]
    assert page.tables["Different options"] == expected
    assert page.tables["CIDEr"] == [
        ["step", "base", "glied"],
        ["10", "10", "20"],
        ["20", "20", "40"],
        ["30", "30", ""],
        ["40", "25", ""],
    ]
    assert page.tables["a kite"][:2] == [["step", "base", "glied"], ["10", "a kite at 10", "a kite at 10"]]
    assert page.tables["a dog"][-1] == ["40", "a dog at 40"]
    assert page.descriptions[1].startswith(
        "Validation. CIDEr: base from 10 to 25, glied from 20 to 40. loss: base from 1 to 1"
    )


def test_rewards_and_their_parts_have_a_figure(tmp_path: Path) -> None:
    runs = labeled([read_history(make_run(tmp_path / "scst", rewards=True))])
    found = grouped(runs, "step")
    shown = {title: [panel.title for panel in panels] for title, panels in found.items()}
    assert shown == {
        "Training": ["loss"],
        "Rewards": ["reward", "reward clip s", "greedy", "baseline"],
        "Validation": ["CIDEr", "loss"],
        "Throughput": ["images/s", "share of the time spent waiting for data", "seconds draw"],
    }


def test_epochs_compare_runs_with_different_batch_sizes(tmp_path: Path) -> None:
    uri = make_run(tmp_path / "run")
    panels = grouped({"run": read_history(uri)}, "epoch")["Training"]
    assert (panels[0].axis, panels[0].lines["run"][0]) == ("epoch", (0.5, 1 / 5))


def test_figures_are_separate_files(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    found = make_report(
        ReportConfig(
            runs=[make_run(tmp_path / "run")],
            tables=[written(tmp_path, captioners())],
            out=str(tmp_path / "r.html"),
            pictures=str(folder),
        )
    )
    names = ["training", "validation", "throughput", "captioners"]
    assert found.pictures == [str(folder / f"{name}.{kind}") for name in names for kind in ("svg", "png")]
    for path in map(Path, found.pictures):
        if path.suffix == ".png":
            assert Image.open(path).size[0] > 300
        else:
            assert path.read_text().startswith("<svg")


def test_tables_alone_are_a_report(tmp_path: Path) -> None:
    found = make_report(ReportConfig(tables=[written(tmp_path, captioners())], out=str(tmp_path / "r.html")))
    page = Page(tmp_path / "r.html")
    assert page.headings == found.figures == ["Captioners"]
    assert page.tables["Captioners"][1] == ["SoftAtt", "0.96", "", "112.2"]


def test_two_tables_with_the_same_title_have_two_figures(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(written(tmp_path / name, {"title": "?!", "rows": [{"claim": "x", "value": 1}]}))
    found = make_report(
        ReportConfig(tables=paths, out=str(tmp_path / "r.html"), pictures=str(tmp_path / "p"))
    )
    assert [Path(path).name for path in found.pictures] == [
        "figure.svg",
        "figure.png",
        "figure-2.svg",
        "figure-2.png",
    ]


def test_external_text_is_escaped(tmp_path: Path) -> None:
    name = EVIL.replace("/", "|")
    uri = make_run(tmp_path / name, kind=EVIL, references=[EVIL])
    table = written(tmp_path, {"title": EVIL, "note": EVIL, "rows": [{EVIL: EVIL, "value": 1.0}]})
    out = tmp_path / "r.html"
    make_report(ReportConfig(runs=[uri], tables=[table], out=str(out), title=EVIL))
    page = Page(out)
    assert EVIL not in page.text
    assert not {"script", "iframe", "link"} & set(page.tags)
    assert page.tags.count("img") == len(page.descriptions) == 4
    assert page.tables["Runs"][1][:2] == [name, EVIL]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_runs_are_named_by_the_differing_parts_of_their_paths(tmp_path: Path) -> None:
    uris = [make_run(tmp_path / place / "run") for place in ("a", "b")]
    assert list(labeled([read_history(uri) for uri in uris])) == ["a/run", "b/run"]
    assert list(labeled([read_history(uris[0])])) == ["run"]


def test_long_runs_have_short_tables() -> None:
    items = list(range(1000))
    assert thinned(items, 5) == [0, 250, 500, 749, 999]
    assert thinned(items[:5], 5) == items[:5]
    assert len(set(thinned(items, 20))) == 20


def job(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """Run the job and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["report.py", *options])
    with pytest.raises(SystemExit) as ended:
        run(report.main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_job_accepts_runs_and_tables_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name) for name in "abc"]
    tables = [written(tmp_path, captioners())]
    out = tmp_path / "r.html"
    assert job(monkeypatch, runs[0], runs[1], "--tables", *tables, "--runs", runs[2], f"--out={out}") == 0
    assert [row[0] for row in Page(out).tables["Runs"]] == ["run", "c", "a", "b"]
    assert f"Captioners: {out} (" in capsys.readouterr().out


def test_invalid_inputs_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = make_run(tmp_path / "silent", steps=0, complete=False)
    good = make_run(tmp_path / "good")
    out = tmp_path / "r.html"
    for options, complaint in (
        ([str(tmp_path / "nowhere")], "holds no training run"),
        ([good, silent], "silent has no scalars yet"),
        ([good, f"{good}/"], "is named twice"),
        ([], "name one or more run folders, or --tables"),
        ([good, "--tables", str(tmp_path / "none.json")], "none.json: no such file"),
        ([good, "--axis", "hours"], "axis"),
    ):
        assert job(monkeypatch, *options, "--out", str(out)) == 2
        printed = capsys.readouterr().err
        assert complaint in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
    assert not out.exists()


def test_a_config_without_inputs_is_refused() -> None:
    with pytest.raises(UsageError, match="name one or more run folders"):
        ReportConfig(out="r.html")
