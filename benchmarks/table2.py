"""Reproduce Table 2 of the GLIED paper on the demo world: six captioners' parameters, time, speed and CIDEr.

python benchmarks/table2.py
python benchmarks/table2.py --full
python benchmarks/table2.py --short

Without an option, the script counts the parameters at the paper's sizes (V = 9,488, regions of 2048) and
prints the committed results with their source. This takes seconds.

With --full, it trains LSTM, SoftAtt, Up-Down, CT, Base and GLIED with configs/captioner/*_demo.yaml, as
jobs/train_captioner.py does, but in this process (`glied.training.local_trainer`). Then it captions the test
scenes with beam 3 and measures images/s of all models alternately, at the demo world's sizes and at the
paper's. The same command resumes after an interruption, also in the middle of a training; to train a model
again, delete its folder in --runs. This needs the inputs of the configs and the features of the test scenes,
and takes 2 h 15 on one core. Training time is the CPU time of this process without validation, up to the best
validation; for Base and GLIED it includes attribute prediction. table2.json and table2.md are written to
--results after each model.

With --short, it does the same with 10 steps and 100 test scenes, in some minutes. This only checks that the
script works. The results stay in --runs, under short/.

The last line is one JSON object.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.decoding import captioning, inputs, paper_vocabulary, timed
from benchmarks.decoding_products import FEATURES, WORDS
from benchmarks.measurement import ROOT, batches, print_result, torch_machine
from benchmarks.study_config import RESULTS, TrainingConfig
from benchmarks.table2_results import PAPER, markdown, parameter_table
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner, attribute_ids
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.config import parse, run
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.regions import RegionBatch, Regions
from glied.training.config import TrainerConfig
from glied.training.history import VALIDATION, read_history
from glied.training.local_trainer import train_here
from glied.training.task import Row
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.vision.attributes import AttributePredictor

BATCH, BEAMS, ROUNDS = 50, 3, 3
SHORT_STEPS, SHORT_IMAGES = 10, 100
"""Training steps and test scenes of the short form."""
RESULT = "table2.json"
"""File of a model's results in its folder."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """What to train, and the inputs and outputs."""

    models: tuple[str, ...] = tuple(PAPER)
    """With full or short: models to train, in this order."""
    runs: str = "runs/table2"
    """With full or short: folder of the trained models and their results."""
    test: CaptionedRegions = dataclasses.field(
        default_factory=lambda: CaptionedRegions(
            features="runs/features/test", captions="data/scenes/test/captions.json"
        )
    )
    """With full or short: the test scenes."""
    results: str = str(RESULTS)
    """Folder of table2.json and table2.md; the short form writes them beside its models."""

    def __post_init__(self) -> None:
        """Check the names of the models, and that only one form is chosen."""
        super().__post_init__()
        for name in self.models:
            if name not in PAPER:
                raise UsageError(f"models: {name!r} is none of {', '.join(PAPER)}")

    @property
    def limit(self) -> int | None:
        """Number of test scenes to caption; None for all."""
        return SHORT_IMAGES if self.short else None

    @property
    def tables(self) -> Path:
        """Folder of table2.json and table2.md."""
        return self.folder if self.short else Path(self.results)


def main() -> int:
    """Train and measure the missing models if asked to, then print the tables."""
    config = parse(Config, description=__doc__)
    if config.full or config.short:
        torch.set_num_threads(config.threads)
        for name in config.models:
            train(config, name)
            write(config.tables, collect(config))
        write(config.tables, collect(config) | {"speed": speeds(config)})
    parameters = {name: breakdown(name) for name in PAPER}
    print(parameter_table(parameters))
    path = config.tables / "table2.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    print(markdown(results) if results else f"no results in {config.tables}: --full trains and measures")
    totals = {name: sum(parts.values()) / 1e6 for name, parts in parameters.items()}
    print_result({"parameters_m": totals, **results}, config.out)
    return 0


# ---- parameters


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


# ---- training


def train(config: Config, name: str) -> None:
    """Train a model and caption the test scenes, unless its result exists."""
    folder = config.folder / name
    if (folder / RESULT).exists():
        return
    job = job_of(config, name)
    task = CaptionerTask(config=job)
    train_here(task, job.trainer)
    captioner = Captioner.load(str(folder / "best"), DecodingConfig(beam_size=BEAMS))
    images = test_images(config.test, task.predictor, task.config.words.attribute_count, config.limit)
    references = {str(number): captions for number, (_, _, captions) in enumerate(images)}
    texts = {str(number): text for number, text in enumerate(captions_of(captioner, images))}
    (folder / "captions.json").write_text(json.dumps(texts, indent=1))
    result = training_figures(job.trainer) | {
        "test_cider": round(cider(texts, references), 2),
        "test_images": len(images),
        "parameters": sum(parameter.numel() for parameter in captioner.model.parameters()),
        "attributes": job.model.reads_attributes,
    }
    (folder / RESULT).write_text(json.dumps(result, indent=1) + "\n")


def job_of(config: Config, name: str) -> TrainCaptionerConfig:
    """Return the config of the job that trains a model."""
    options = {
        "trainer.output": config.folder / name,
        "trainer.resources.threads_per_worker": config.threads,
        **({"trainer.max_steps": SHORT_STEPS} if config.short else {}),
    }
    return configured(TrainCaptionerConfig, f"captioner/{name}_demo.yaml", options)


def configured(kind: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Parse a file of configs/ with `options` that override it."""
    arguments = [f"--{key}={value}" for key, value in options.items()]
    return parse(kind, ["--config", str(ROOT / "configs" / name), *arguments])


def training_figures(trainer: TrainerConfig) -> dict[str, Any]:
    """Return the validations of a training run over its CPU minutes, and the best of them."""
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
    """Read the rows of a feature store that have regions."""
    rows = [row for uri in uris for row in pq.read_table(uri).to_pylist()]
    return [row for row in rows if row["count"] is not None]


Image = tuple[Regions, list[tuple[str, float]], list[str]]
"""Regions, attributes with probabilities, reference captions."""


def test_images(
    test: CaptionedRegions, predictor: AttributePredictor, count: int, limit: int | None
) -> list[Image]:
    """Return the first `limit` test images with the `count` most probable attributes of each."""
    pairs = test.pair(stored(test.paths())[:limit])
    regions = [features.read(row) for row, _ in pairs]
    words: list[list[tuple[str, float]]] = []
    with torch.inference_mode():
        for part in batches(regions, BATCH):
            words += predictor.top(RegionBatch.collate(part), count)
    return [(one, top, texts) for one, top, (_, texts) in zip(regions, words, pairs, strict=True)]


def captions_of(captioner: Captioner, images: list[Image]) -> list[str]:
    """Return the best caption of each image."""
    results = (captioner.caption(*list(zip(*part, strict=True))[:2]) for part in batches(images, BATCH))
    return [captions[0].text for batch in results for captions in batch]


# ---- speed


def speeds(config: Config) -> dict[str, Any]:
    """Measure images/s of the trained models on the test scenes, and of random models at the paper's sizes.

    All models are timed alternately, `ROUNDS` times; the fastest round of each counts, in CPU time.
    """
    demo, paper = {}, {}
    for name in config.models:
        captioner = Captioner.load(str(config.folder / name / "best"), DecodingConfig(beam_size=BEAMS))
        task = CaptionerTask(config=job_of(config, name))
        images = test_images(config.test, task.predictor, task.config.words.attribute_count, config.limit)
        demo[name] = prepare(captioner, images)
        paper[name] = prepare_paper_size(name)
    return {
        "threads": config.threads,
        "batch": BATCH,
        "beams": BEAMS,
        "demo": fastest(demo, len(images)),
        "paper_sizes": fastest(paper, BATCH),
    }


def prepare(captioner: Captioner, images: list[Image]) -> Any:
    """Return a function that decodes the images, from collated regions and attribute ids to token ids."""
    collated = []
    for part in batches(images, BATCH):
        regions, top, _ = zip(*part, strict=True)
        words = [[word for word, _ in one] for one in top]
        ids, mask = attribute_ids(words, captioner.vocabulary, captioner.attribute_count)
        collated.append((RegionBatch.collate(list(regions)), ids, mask))

    @torch.inference_mode()
    def caption() -> None:
        for batch in collated:
            decode(captioner.frozen, captioner.frozen.encode(*batch), captioner.decoding)

    return caption


def prepare_paper_size(name: str) -> Any:
    """Return a function that decodes 20 words for each of 50 images with random weights at paper size."""
    torch.manual_seed(0)
    vocabulary = paper_vocabulary()
    model = build_model(PAPER_SIZES[name], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    search = DecodingConfig(beam_size=BEAMS, min_length=20, max_length=20)
    return captioning(Captioner(model, vocabulary), inputs(BATCH), search)


def fastest(calls: dict[str, Any], images: int) -> dict[str, float]:
    """Return the images/s of each call."""
    for call in calls.values():
        call()  # warms up
    seconds = [{name: timed(call, time.process_time) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: round(images / min(one[name] for one in seconds), 2) for name in calls}


# ---- results


def collect(config: Config) -> dict[str, Any]:
    """Collect the results of the trained models."""
    models = {}
    for name in PAPER:
        path = config.folder / name / RESULT
        if path.exists():
            models[name] = json.loads(path.read_text())
    return {
        "short": config.short,
        "machine": torch_machine(),
        "threads": config.threads,
        "date": time.strftime("%Y-%m-%d"),
        "models": models,
    }


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write table2.json and table2.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table2.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "table2.md").write_text(markdown(results))


if __name__ == "__main__":
    run(main)
