"""Table 2 of the GLIED paper on the demo world: parameters, training time, images/s, CIDEr of six captioners.

python benchmarks/table2.py
python benchmarks/table2.py --full
python benchmarks/table2.py --short

Without an option: counts the parameters at the paper's sizes (V = 9,488, regions of 2048) and prints the
results that are committed beside this file, with where they came from. Seconds.

With --full: trains LSTM, SoftAtt, Up-Down, CT, Base and GLIED with configs/captioner/*_demo.yaml, as
jobs/train_captioner.py does, but in this process (`glied.training.local_trainer`). Then captions the test
scenes (beam 3) and measures images/s, all models in turn, at the demo's sizes and at the paper's. The same
command goes on where it was stopped, within a model too; delete a model's folder in --runs to train it anew.
Needs what the configs need, and the features of the test scenes; 2 h 15 on one core. Training time is the CPU
time of this process without validation, up to the best one: other work on the machine does not count. For
Base and GLIED it includes the prediction of attributes. Writes table2.json and table2.md to --results after
each model.

With --short: the same with 10 steps and 100 test scenes; minutes. It shows that the script works and says
nothing about the models: its results stay in --runs, under short/.

The last line is one JSON object.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the configs of jobs/

from benchmarks.decoding import (  # noqa: E402
    FEATURES,
    WORDS,
    captioning,
    inputs,
    machine,
    paper_vocabulary,
    timed,
)
from glied.captioner.architectures import PAPER_SIZES, build_model  # noqa: E402
from glied.captioner.captioner import Captioner, attribute_ids  # noqa: E402
from glied.captioner.config import DecodingConfig  # noqa: E402
from glied.captioner.decode import decode  # noqa: E402
from glied.commands import train_captioner  # noqa: E402
from glied.config import parse, run  # noqa: E402
from glied.data import features  # noqa: E402
from glied.data.captioned_regions import CaptionedRegions  # noqa: E402
from glied.errors import UsageError  # noqa: E402
from glied.metrics.text_metrics import cider  # noqa: E402
from glied.regions import RegionBatch, Regions  # noqa: E402
from glied.training.config import TrainerConfig  # noqa: E402
from glied.training.history import VALIDATION, read_history  # noqa: E402
from glied.training.local_trainer import train_here  # noqa: E402
from glied.training.task import Row  # noqa: E402
from glied.vision.attributes import AttributePredictor  # noqa: E402

PAPER = {
    "lstm": ("LSTM", 11.5, 16.8, 28.6, 105.7),
    "soft_att": ("SoftAtt", 12.1, 20.4, 23.3, 111.5),
    "up_down": ("Up-Down", 50.1, 24.9, 14.8, 113.2),
    "ct": ("CT", 27.5, 22.7, 12.9, 115.1),
    "base": ("Base", 12.3, 13.2, 37.9, 113.5),
    "glied": ("GLIED", 18.3, 11.9, 34.5, 118.2),
}
"""The paper's row: name, millions of parameters, training hours, images/s (one GTX 1080 Ti), CIDEr (COCO)."""
BATCH, BEAMS, ROUNDS = 50, 3, 3
SHORT_STEPS, SHORT_IMAGES = 10, 100
"""Of the short form: training steps, and test scenes."""
RESULT = "table2.json"
"""In a model's folder: its row of the table."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train and where it lies."""

    full: bool = False
    """Train and measure; otherwise print the committed results."""
    short: bool = False
    """Train and measure in minutes, for a trial of this script."""
    models: tuple[str, ...] = tuple(PAPER)
    """With full or short: which models, in this order."""
    runs: str = "runs/table2"
    """With full or short: folder of the trained models and their results."""
    test: CaptionedRegions = dataclasses.field(
        default_factory=lambda: CaptionedRegions(
            features="runs/features/test", captions="data/scenes/test/captions.json"
        )
    )
    """With full or short: the test scenes."""
    results: str = str(ROOT / "benchmarks" / "results")
    """Folder of table2.json and table2.md; the short form writes them beside its models."""
    threads: int = 1
    """With full or short: threads of torch."""
    out: str | None = None
    """Where to write the JSON of the last line too."""

    def __post_init__(self) -> None:
        """Refuse models that the table does not have, and two forms at once."""
        for name in self.models:
            if name not in PAPER:
                raise UsageError(f"models: {name!r} is none of {', '.join(PAPER)}")
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

    @property
    def folder(self) -> Path:
        """Where the models are."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    @property
    def limit(self) -> int | None:
        """How many test scenes are captioned; None for all."""
        return SHORT_IMAGES if self.short else None

    @property
    def tables(self) -> Path:
        """Where table2.json and table2.md are."""
        return self.folder if self.short else Path(self.results)


def main() -> int:
    """Train what is missing, or print what is there."""
    config = parse(Config, description=__doc__)
    if config.full or config.short:
        torch.set_num_threads(config.threads)
        for name in config.models:
            trained(config, name)
            write(config.tables, collect(config))
        write(config.tables, collect(config) | {"speed": speeds(config)})
    parameters = {name: breakdown(name) for name in PAPER}
    print(parameter_table(parameters))
    path = config.tables / "table2.json"
    found = json.loads(path.read_text()) if path.exists() else None
    print(markdown(found) if found else f"no results in {config.tables}: --full trains and measures")
    report = {
        "parameters_m": {name: sum(parts.values()) / 1e6 for name, parts in parameters.items()},
        **(found or {}),
    }
    if config.out:
        Path(config.out).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


# ---- parameters


def breakdown(name: str) -> dict[str, int]:
    """Parameters by part, at the paper's sizes; tied weights count once, as embeddings."""
    with torch.device("meta"):
        model = build_model(PAPER_SIZES[name], feature_size=FEATURES, vocabulary_size=WORDS + 1)
    parts: dict[str, int] = {}
    for part, parameter in model.named_parameters():  # names a tied weight once
        group = part.split(".")[0].removesuffix("s")
        group = {"region_norm": "regions in", "region_projection": "regions in"}.get(group, group)
        if group == "attention" and part.startswith("attentions."):
            group = part.split(".")[1]
        parts[group] = parts.get(group, 0) + parameter.numel()
    return parts


def parameter_table(parameters: dict[str, dict[str, int]]) -> str:
    """Ours beside the paper's, with the parts."""
    lines = ["| model | paper | ours | parts, millions |", "|---|---|---|---|"]
    for name, parts in parameters.items():
        listed = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in parts.items())
        title, paper = PAPER[name][:2]
        lines.append(f"| {title} | {paper}M | {sum(parts.values()) / 1e6:.1f}M | {listed} |")
    return "\n".join(lines) + "\n"


# ---- training


def trained(config: Config, name: str) -> None:
    """Train a model and caption the test scenes, unless its result is there already."""
    folder = config.folder / name
    if (folder / RESULT).exists():
        return
    job = job_of(config, name)
    task = train_captioner.build_task(job)
    train_here(task, job.trainer)
    captioner = Captioner.load(str(folder / "best"), DecodingConfig(beam_size=BEAMS))
    images = test_images(config.test, task.predictor, task.words.attribute_count, config.limit)
    truths = {str(number): captions for number, (_, _, captions) in enumerate(images)}
    said = {str(number): text for number, text in enumerate(captions_of(captioner, images))}
    (folder / "captions.json").write_text(json.dumps(said, indent=1))
    result = training(job.trainer) | {
        "test_cider": round(cider(said, truths), 2),
        "test_images": len(images),
        "parameters": sum(parameter.numel() for parameter in captioner.model.parameters()),
        "attributes": job.model.reads_attributes,
    }
    (folder / RESULT).write_text(json.dumps(result, indent=1) + "\n")


def job_of(config: Config, name: str) -> train_captioner.Config:
    """The config that trains a model."""
    options = {
        "trainer.output": config.folder / name,
        "trainer.threads_per_worker": config.threads,
        **({"trainer.max_steps": SHORT_STEPS} if config.short else {}),
    }
    return configured(train_captioner.Config, f"captioner/{name}_demo.yaml", options)


def configured(kind: Any, name: str, options: Mapping[str, Any]) -> Any:
    """A config of configs/, `options` over it."""
    given = [f"--{key}={value}" for key, value in options.items()]
    return parse(kind, ["--config", str(ROOT / "configs" / name), *given])


def training(trainer: TrainerConfig) -> dict[str, Any]:
    """What a run tells of itself: its validations over CPU minutes, and the best of them."""
    history = read_history(trainer.output)
    curve = [
        {
            "epoch": round(step / history.epoch_steps, 2),
            "minutes": round(history.cpu_minutes(step), 2),
            "cider": round(value, 3),
        }
        for step, value in history.scalars(VALIDATION)["cider"]
    ]
    best = max(curve, key=lambda point: point["cider"])
    return {
        "val_cider": best["cider"],
        "best_epoch": best["epoch"],
        "minutes_to_best": best["minutes"],
        "minutes": curve[-1]["minutes"],
        "epochs": curve[-1]["epoch"],
        "train_images": history.config["rows"]["train"],
        "val_images": history.config["rows"]["validation"],
        "batch": trainer.batch_size,
        "curve": curve,
    }


def stored(uris: list[str]) -> list[Row]:
    """The rows of a feature store that have regions."""
    rows = [row for uri in uris for row in pq.read_table(uri).to_pylist()]
    return [row for row in rows if row["count"] is not None]


Image = tuple[Regions, list[tuple[str, float]], list[str]]
"""Regions, attributes, reference captions."""


def test_images(
    test: CaptionedRegions, predictor: AttributePredictor, count: int, limit: int | None
) -> list[Image]:
    """The first `limit` test scenes with the `count` most probable attributes of each."""
    pairs = test.pair(stored(test.paths())[:limit])
    regions = [features.read(row) for row, _ in pairs]
    words: list[list[tuple[str, float]]] = []
    with torch.inference_mode():
        for part in parts(regions):
            words += predictor.top(RegionBatch.collate(part), count)
    return [(one, top, texts) for one, top, (_, texts) in zip(regions, words, pairs, strict=True)]


def captions_of(captioner: Captioner, images: list[Image]) -> list[str]:
    """The best caption of each image."""
    found = (captioner.caption(*list(zip(*part, strict=True))[:2]) for part in parts(images))
    return [captions[0].text for several in found for captions in several]


def parts(items: list[Any]) -> Iterator[list[Any]]:
    """Consecutive parts of at most `BATCH` items."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


# ---- speed


def speeds(config: Config) -> dict[str, Any]:
    """Images/s of the trained models on the test scenes and of random ones at the paper's sizes.

    All models in turn, `ROUNDS` times; the fastest round of each counts, in CPU time.
    """
    demo, paper = {}, {}
    for name in config.models:
        captioner = Captioner.load(str(config.folder / name / "best"), DecodingConfig(beam_size=BEAMS))
        task = train_captioner.build_task(job_of(config, name))
        images = test_images(config.test, task.predictor, task.words.attribute_count, config.limit)
        demo[name] = prepared(captioner, images)
        paper[name] = at_paper_size(name)
    return {
        "threads": config.threads,
        "batch": BATCH,
        "beams": BEAMS,
        "demo": fastest(demo, len(images)),
        "paper_sizes": fastest(paper, BATCH),
    }


def prepared(captioner: Captioner, images: list[Image]) -> Any:
    """From collated regions and attribute ids to words."""
    batches = []
    for part in parts(images):
        regions, top, _ = zip(*part, strict=True)
        words = [[word for word, _ in one] for one in top]
        ids, mask = attribute_ids(words, captioner.vocabulary, captioner.attribute_count)
        batches.append((RegionBatch.collate(list(regions)), ids, mask))

    @torch.inference_mode()
    def caption() -> None:
        for batch in batches:
            decode(captioner.frozen, captioner.frozen.encode(*batch), captioner.decoding)

    return caption


def at_paper_size(name: str) -> Any:
    """20 words for each of 50 images with random weights of the paper's sizes, as in decoding.py."""
    torch.manual_seed(0)
    vocabulary = paper_vocabulary()
    model = build_model(PAPER_SIZES[name], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    search = DecodingConfig(beam_size=BEAMS, min_length=20, max_length=20)
    return captioning(Captioner(model, vocabulary), inputs(BATCH), search)


def fastest(calls: dict[str, Any], images: int) -> dict[str, float]:
    """Images/s of each call."""
    for call in calls.values():
        call()  # warms up
    seconds = [{name: timed(call, time.process_time) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: round(images / min(one[name] for one in seconds), 2) for name in calls}


# ---- results


def collect(config: Config) -> dict[str, Any]:
    """The results of the models that are there."""
    found = {}
    for name in PAPER:
        path = config.folder / name / RESULT
        if path.exists():
            found[name] = json.loads(path.read_text())
    return {
        "short": config.short,
        "machine": machine(),
        "threads": config.threads,
        "date": time.strftime("%Y-%m-%d"),
        "models": found,
    }


def write(folder: Path, results: dict[str, Any]) -> None:
    """table2.json and table2.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table2.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "table2.md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    """The table, what it was measured on above it."""
    some = next(iter(results["models"].values()))
    speed = results.get("speed", {"demo": {}, "paper_sizes": {}})
    lines = ["**The short form: it shows that the script works and says nothing about the models.**", ""]
    lines = [
        *(lines if results["short"] else []),
        f"Demo world, {some['train_images']} train / {some['val_images']} val / {some['test_images']} test "
        f"scenes, {some['epochs']:g} epochs of batch {some['batch']}, one seed. {results['machine']}, "
        f"{results['threads']} thread(s), {results['date']}. Minutes are CPU time of training, without "
        "validation; images/s from stored regions and attributes, beam 3, batch 50, at the demo's sizes and, "
        "with random weights and 20 words, at the paper's. The paper: COCO, one GTX 1080 Ti.",
        "",
        "| | parameters | minutes to best val CIDEr (all) | images/s | images/s, paper's sizes "
        "| CIDEr val, greedy | CIDEr test, beam 3 | paper: parameters | hours | images/s | CIDEr |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results["models"].items():
        title, *paper = PAPER[name]
        cells = [
            title,
            f"{one['parameters'] / 1e6:.2f}M",
            f"{one['minutes_to_best']:.1f} ({one['minutes']:.1f})",
            speed["demo"].get(name, ""),
            speed["paper_sizes"].get(name, ""),
            f"{one['val_cider']:.1f}",
            f"{one['test_cider']:.1f}",
            f"{paper[0]}M",
            *paper[1:],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
