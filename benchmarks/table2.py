"""Reproduce Table 2 of the GLIED paper on the demo world: size, time, speed and CIDEr of six models.

python benchmarks/table2.py
python benchmarks/table2.py --speed

The trainings are those of benchmarks/claims.py: this script shows its runs of LSTM, SoftAtt, Up-Down, CT,
Base and GLIED beside the paper's figures. `claims.py --full` trains them, `claims.py --speed` measures their
images/s. Without an option, the script counts the parameters at the paper's sizes (V = 9,488, regions of
2048) and prints the table. This takes seconds.

With --speed, it measures the images/s of models with random weights at the paper's sizes alternately, and
writes table2.json and table2.md to --results.

Training time is the CPU time of a run without validation; for Base and GLIED it includes attribute
prediction. CIDEr is that of the test scenes with 3 beams; its 95 % interval is over images and seeds.

The last line is one JSON object.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

import numpy as np
import torch

from benchmarks.captioners import BATCH, BEAMS, fastest
from benchmarks.claims import read_runs
from benchmarks.claims_speed import FILE as SPEED_FILE
from benchmarks.claims_table import Run, machines_and_dates, measured, values
from benchmarks.claims_worlds import DEMO
from benchmarks.decoding import captioning, inputs, paper_vocabulary
from benchmarks.decoding_products import FEATURES, WORDS
from benchmarks.measurement import print_result, torch_machine
from benchmarks.study_config import RESULTS
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.config import parse, run
from glied.metrics.bootstrap import bootstrap_over_seeds

PAPER = {
    "lstm": ("LSTM", 11.5, 16.8, 28.6, 105.7),
    "soft_att": ("SoftAtt", 12.1, 20.4, 23.3, 111.5),
    "up_down": ("Up-Down", 50.1, 24.9, 14.8, 113.2),
    "ct": ("CT", 27.5, 22.7, 12.9, 115.1),
    "base": ("Base", 12.3, 13.2, 37.9, 113.5),
    "glied": ("GLIED", 18.3, 11.9, 34.5, 118.2),
}
"""The paper's rows: name, millions of parameters, training hours, images/s, CIDEr (COCO, one GTX 1080 Ti)."""
CIDER = f"CIDEr, beam {BEAMS}"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Inputs and outputs."""

    speed: bool = False
    """Measure the images/s at the paper's sizes; let nothing else run meanwhile."""
    runs: str = str(RESULTS / DEMO.results)
    """Folder of the results of benchmarks/claims.py."""
    results: str = str(RESULTS)
    """Folder of table2.json and table2.md."""
    out: str | None = None
    """File for the JSON of the last line."""


def main() -> int:
    """Measure the speeds if asked to, then print the tables."""
    config = parse(Config, description=__doc__)
    path = Path(config.results) / "table2.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    result = table(config, speeds() if config.speed else stored.get("paper_sizes", {}))
    if config.speed:
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(markdown(result))
    parameters = {name: breakdown(name) for name in PAPER}
    print(parameter_table(parameters))
    print(markdown(result))
    totals = {name: sum(parts.values()) / 1e6 for name, parts in parameters.items()}
    print_result({"parameters_m": totals, **result}, config.out)
    return 0


# ---- parameters and speed at the paper's sizes


def breakdown(name: str) -> dict[str, int]:
    """Count the parameters of each part at the paper's sizes; tied weights count once, as embeddings."""
    with torch.device("meta"):
        model = build_model(PAPER_SIZES[name], feature_size=FEATURES, vocabulary_size=WORDS + 1)
    parts: dict[str, int] = {}
    for part, parameter in model.named_parameters():  # lists a tied weight once
        group = part.split(".")[0].removesuffix("s")
        group = {"region_norm": "regions in", "region_projection": "regions in"}.get(group, group)
        if group == "attention" and part.startswith("attentions."):
            group = part.split(".")[1]
        parts[group] = parts.get(group, 0) + parameter.numel()
    return parts


def parameter_table(parameters: Mapping[str, Mapping[str, int]]) -> str:
    """Format the parameters at the paper's sizes, by part, beside those that the paper states."""
    lines = ["| model | paper | ours | parts, millions |", "|---|---|---|---|"]
    for name, parts in parameters.items():
        listed = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in parts.items())
        title, paper = PAPER[name][:2]
        lines.append(f"| {title} | {paper}M | {sum(parts.values()) / 1e6:.1f}M | {listed} |")
    return "\n".join(lines) + "\n"


def speeds() -> dict[str, Any]:
    """Measure all models alternately on one thread: 20 words for each of 50 images, with random weights."""
    torch.set_num_threads(1)
    found = fastest({name: prepare_paper_size(name) for name in PAPER}, BATCH)
    return {"images/s": found, "machine": torch_machine(), "date": time.strftime("%Y-%m-%d")}


def prepare_paper_size(name: str) -> Any:
    """Return a function that decodes with random weights at the paper's size."""
    torch.manual_seed(0)
    vocabulary = paper_vocabulary()
    model = build_model(PAPER_SIZES[name], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    search = DecodingConfig(beam_size=BEAMS, min_length=20, max_length=20)
    return captioning(Captioner(model, vocabulary), inputs(BATCH), search)


# ---- the table


def table(config: Config, paper_sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table in the form that jobs/report.py reads, with the speeds at the paper's sizes beside."""
    folder = Path(config.runs)
    runs = [one for one in read_runs(folder) if one["variant"] in PAPER]
    path = folder / SPEED_FILE
    demo = json.loads(path.read_text())["images/s"] if path.exists() else {}
    rows = [row(name, runs, demo, paper_sizes.get("images/s", {})) for name in PAPER]
    rows = [one for one in rows if one["seeds"]]
    note = f"{len(runs)} runs of benchmarks/claims.py{machines_and_dates(runs)}"
    return {"title": "Table 2 on the demo world", "note": note, "rows": rows, "paper_sizes": paper_sizes}


def row(
    name: str, runs: Sequence[Run], demo: Mapping[str, float], paper: Mapping[str, float]
) -> dict[str, Any]:
    """Return the row of a model: means over its seeds, and the interval of its CIDEr."""
    own = [one for one in measured(runs, CIDER) if one["variant"] == name]
    result: dict[str, Any] = {"model": PAPER[name][0], "seeds": len(own)}
    if not own:
        return result
    for figure in ("parameters, millions", "CPU minutes", "CIDEr val"):
        result[figure] = round(float(np.mean(values(own, name, figure))), 2)
    result |= {"images/s": demo.get(name), "images/s, paper's sizes": paper.get(name)}
    images = [np.array(one["by_image"][CIDER], float) for one in own]
    found = bootstrap_over_seeds([np.zeros_like(images[0])], images)
    return result | {CIDER: round(found.second, 1), "low": round(found.low, 1), "high": round(found.high, 1)}


def markdown(result: Mapping[str, Any]) -> str:
    """Format how the table was measured, our table, then the paper's."""
    lines = [f"**{result['title']}.** {result['note']}.", ""]
    return "\n".join([*lines, *our_table(result["rows"]), "", *paper_table()]) + "\n"


def our_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of our table."""
    columns = ["parameters, millions", "CPU minutes", "images/s", "images/s, paper's sizes", "CIDEr val"]
    yield f"| | seeds | {' | '.join(columns)} | {CIDER} | 95 % |"
    yield "|---" * (len(columns) + 4) + "|"
    for one in rows:
        figures = ["" if one[name] is None else f"{one[name]:g}" for name in columns]
        interval = f"{one['low']:g} to {one['high']:g}"
        yield f"| {one['model']} | {one['seeds']} | {' | '.join(figures)} | {one[CIDER]:g} | {interval} |"


def paper_table() -> Iterator[str]:
    """Yield the lines of the paper's table."""
    yield "| the paper (COCO, one GTX 1080 Ti) | parameters | training hours | images/s | CIDEr |"
    yield "|---|---|---|---|---|"
    for title, parameters, hours, speed, cider in PAPER.values():
        yield f"| {title} | {parameters}M | {hours} | {speed} | {cider} |"


if __name__ == "__main__":
    run(main)
