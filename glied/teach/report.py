"""The report of a teaching: verdict, figures, captions of held-out images, schedule, time, cost, curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.data import coco
from glied.reports.benchmark_tables import Row
from glied.reports.caption_inputs import read_captions
from glied.reports.training_report import ReportConfig, make_report
from glied.teach.final_steps import TEACHER_TEST
from glied.teach.step_records import Record
from glied.teach.teaching import Teaching
from glied.teach.training_steps import ATTRIBUTES, CAPTIONER, REWARDED
from glied.teach.verdict import BY_PEOPLE

_SHOWN = 24
"""Held-out images whose captions are shown."""
_FIGURES = (
    "CIDEr",
    f"CIDEr{BY_PEOPLE}",
    "BLEU-4",
    "ROUGE-L",
    "CLIP-S",
    "R@1",
    "R@5",
    "length",
    "vocabulary",
    "repeats-2",
    "distinct",
    "unfamiliar",
)


@dataclass(frozen=True)
class TeachReport:
    """What is reported.

    Attributes:
        teaching: of it.
        records: of its steps.
        startup: seconds until the first step, of all attempts.
        verdict: in one line.
    """

    teaching: Teaching
    records: Mapping[str, Record]
    startup: float
    verdict: str

    def write(self) -> str:
        """Write report.html and the tables in it, report/*.json; the URI of the page."""
        tables = [self._write(name, table) for name, table in self._tables().items()]
        out = self.teaching.path("report.html")
        names = {"attributes": ATTRIBUTES, "captioner": CAPTIONER, "reward": REWARDED}
        runs = [
            self.teaching.path(folder) for name, folder in names.items() if self._facts(name).get("folder")
        ]
        make_report(ReportConfig(runs=runs, tables=tables, out=out, title=f"Taught: {self.verdict}"))
        return out

    def _write(self, name: str, table: Mapping[str, Any]) -> str:
        uri = self.teaching.path("report", f"{name}.json")
        storage.write_bytes(uri, json.dumps(table, indent=1).encode() + b"\n")
        return uri

    def _tables(self) -> dict[str, dict[str, Any]]:
        return {
            "evaluation": _table("Held-out images", self.verdict, self._figures()),
            "captions": _table("Captions of held-out images", "", self._captions()),
            "schedule": _table("Schedule", self._sizes(), self._schedule()),
            "time": _table("Time and cost", self._price(), self._time()),
            "running": _table("Captioning a million images", self._estimate(), self._running()),
        }

    def _facts(self, name: str) -> Mapping[str, Any]:
        return self.records[name].facts if name in self.records else {}

    # ---- tables

    def _figures(self) -> list[Row]:
        found = self._facts("evaluation")
        systems = {"new captioner": found["student"], "before": found.get("before")}
        systems |= {"teacher": found.get("teacher"), "commonest caption": {"CIDEr": found["commonest_cider"]}}
        return [
            {"": name, **{figure: _rounded(figures.get(figure)) for figure in _FIGURES}}
            for name, figures in systems.items()
            if figures is not None
        ]

    def _captions(self) -> list[Row]:
        references = coco.load_captions(self.teaching.captions("test"))
        others = {name: self._said(name) for name in ("before", "teacher") if name in self.records}
        rows: list[Row] = []
        for name, caption in list(self._said("test").items())[:_SHOWN]:
            said = {system: captions.get(name) for system, captions in others.items()}
            learned = references.get(name, [""])[0]
            rows.append({"image": name, "new captioner": caption, **said, "first caption": learned})
        return rows

    def _said(self, step: str) -> dict[str, str]:
        uri = self.teaching.path(TEACHER_TEST if step == "teacher" else step)
        return read_captions(uri)

    def _sizes(self) -> str:
        images, size = self._facts("captions")["images"], self._facts("captions")["size"]
        return ", ".join(f"{count} images for {name}" for name, count in images.items()) + (
            f"; {size['captions']} training captions"
        )

    def _schedule(self) -> list[Row]:
        schedule = self.teaching.schedule({name: record.facts for name, record in self.records.items()})
        return [
            {"setting": name, "value": str(value), "because": schedule.reasons[name]}
            for name, value in schedule.values.items()
        ]

    def _time(self) -> list[Row]:
        seconds = {"start": self.startup} | {name: record.seconds for name, record in self.records.items()}
        seconds["all"] = sum(seconds.values())
        return [{"step": name, **self._cost(spent)} for name, spent in seconds.items()]

    def _running(self) -> list[Row]:
        stores = self._facts("features")["runs"].values()
        regions = max(stores, key=lambda run: (run["images_per_s"] > 0, run["images"]))
        rows = [_speed("new captioner", regions, self._facts("test"))]
        if "teacher" in self.records:
            rows.append(_speed("teacher", self._facts("teacher")))
        return [
            {
                "": name,
                "images/s": _rounded(rate),
                **(self._cost(1e6 / rate) if rate else {}),
                "measured on images": images,
            }
            for name, rate, images in rows
        ]

    def _price(self) -> str:
        price = self.teaching.config.run.dollars_per_hour
        return f"at {price:g} dollars an hour" if price else "run.dollars_per_hour gives the cost"

    def _estimate(self) -> str:
        return (
            f"{self._price()}; an estimate from so few images is rough, most of all from less than a thousand"
        )

    def _cost(self, seconds: float) -> Row:
        price = self.teaching.config.run.dollars_per_hour
        cost: Row = {"dollars": round(seconds / 3600 * price, 2)} if price else {}
        return {"hours": round(seconds / 3600, 3), "seconds": round(seconds, 1), **cost}


def _speed(name: str, *runs: Mapping[str, Any]) -> tuple[str, float, int]:
    """Images a second of runs one after the other, 0 where one is not known; images of the smallest run."""
    rates, images = [run["images_per_s"] for run in runs], min(run["images"] for run in runs)
    return name, 1 / sum(1 / rate for rate in rates) if all(rates) else 0.0, images


def _table(title: str, note: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {"title": title, "note": note, "rows": [*rows]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
