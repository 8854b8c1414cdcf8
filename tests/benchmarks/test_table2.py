"""benchmarks/table2.py shows the runs of benchmarks/claims.py."""

import json
from pathlib import Path

import pytest

from benchmarks import table2
from benchmarks.table2 import CIDER, Config, markdown, table


def write_run(folder: Path, variant: str, seed: int, ciders: list[float]) -> None:
    mean = sum(ciders) / len(ciders)
    figures = {"parameters, millions": 1.75, "CPU minutes": 6.0 + seed, "CIDEr val": 100.0, CIDER: mean}
    run = {"variant": variant, "seed": seed, "figures": figures, "by_image": {CIDER: ciders}}
    (folder / f"{variant}-{seed}.json").write_text(json.dumps(run | {"machine": "m", "date": "2026-01-01"}))


def test_rows_are_means_over_seeds_with_an_interval(tmp_path: Path) -> None:
    for seed, more in enumerate((0.0, 2.0, 4.0)):
        write_run(tmp_path, "glied", seed, [100.0 + more, 140.0 + more])
    write_run(tmp_path, "lstm", 0, [80.0, 80.0])
    write_run(tmp_path, "no_pivot", 0, [1.0, 1.0])
    (tmp_path / "speed.json").write_text(json.dumps({"images/s": {"glied": 400.0}}))
    result = table(Config(runs=str(tmp_path)), {"images/s": {"lstm": 180.0}})
    lstm, glied = result["rows"]
    assert (lstm["model"], lstm[CIDER], lstm["low"], lstm["high"]) == ("LSTM", 80, 80, 80)
    assert (lstm["images/s"], lstm["images/s, paper's sizes"]) == (None, 180)
    assert (glied["seeds"], glied["CPU minutes"], glied[CIDER], glied["images/s"]) == (3, 7, 122, 400)
    assert glied["low"] <= 102, "one image twice"
    assert glied["high"] >= 142
    assert "| GLIED | 3 | 1.75 | 7 | 400 |  | 100 | 122 |" in markdown(result)


@pytest.mark.parametrize("name", table2.PAPER)
def test_parts_add_up_to_the_parameters_at_the_papers_sizes(name: str) -> None:
    millions = sum(table2.breakdown(name).values()) / 1e6
    assert millions == pytest.approx(table2.PAPER[name][1], rel=0.14), "the paper calls its figures estimates"
