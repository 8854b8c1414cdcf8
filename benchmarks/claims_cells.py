"""One cell of benchmarks/claims.py: train a variant with a seed, caption the test scenes, measure."""

import dataclasses
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.decoding import machine
from benchmarks.table2 import captions_of, configured, test_images
from glied import checkpoint, storage
from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.model import CaptionerConfig
from glied.captioner.vocabulary import tokenize
from glied.datasets import features
from glied.datasets.captioned import CaptionedRegions
from glied.datasets.finecapeval import load_annotations
from glied.errors import UsageError
from glied.evaluation.clip_metrics import ClipMetrics
from glied.evaluation.diversity import diversity
from glied.evaluation.finecapeval import word_recall
from glied.evaluation.scene_precision import precision
from glied.evaluation.text_metrics import score, tokenized
from glied.rewards.config import ClipConfig
from glied.training import history
from glied.training.captioner import CaptionerTask
from glied.training.config import TrainerConfig
from glied.training.here import train_here
from glied.training.history import VALIDATION
from glied.training.scst import ScstTask
from jobs import train_captioner, train_scst

if TYPE_CHECKING:
    from benchmarks.claims import Config

REWARDS = ("cider", "clip_s", "ref_clip_s", "cider_clip_s", "clip_s_grammar")
XE_EPOCHS, REWARD_STEPS = 8, 300
"""1,000 steps of XE, then 300 of a reward: 27 cells of at most 17 minutes, 15 of at most 12 on one core."""
SHORT_STEPS, SHORT_IMAGES = 2, 20
JUDGE_R1, JUDGE_POOL = 70.0, 5000
"""What the judge must reach with full descriptions, and among how many images, before a reward is trained."""
MAX_LENGTH = 20
"""Words of a caption; longer ones are cut."""
CLIP_FIGURES = ("CLIP-S", "R@1", "R@5", "R@10")


def prepare(config: "Config") -> None:
    """Set torch up, and find what is missing before hours are spent.

    Raises:
        UsageError: a reward is to be trained and the judge is missing or unfit.
    """
    torch.set_num_threads(config.threads)
    config.cells.mkdir(parents=True, exist_ok=True)
    if config.full and any(variant in REWARDS for variant, _ in config.work):
        check_judge(config.judge)


def check_judge(run: str) -> None:
    """Refuse a judge that cannot tell the images apart; raises `UsageError`."""
    try:
        found = json.loads(storage.read_bytes(storage.join(run, history.RESULT)))
        pool, r1 = int(found["validation"]["pool"]), float(found["best"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{run} is no complete run of jobs/train_clip.py: train configs/clip/judge.yaml"
        ) from None
    if pool < JUDGE_POOL or r1 < JUDGE_R1:
        raise UsageError(
            f"{run}: full descriptions find their image with R@1 {r1:.1f} in a pool of {pool}; a judge needs "
            f"{JUDGE_R1:g} in {JUDGE_POOL} before any reward is trained: train it longer"
        )


def measure(config: "Config", variant: str, seed: int) -> None:
    """Train a cell, unless it is trained, and write its results, unless they are those of these judges."""
    path = config.cells / f"{variant}-{seed}.json"
    identity = recipe(config, variant, seed)
    if path.exists() and json.loads(path.read_text())["recipe"] == identity:
        return
    started = train(config, variant, seed)
    said, references = captions(config, variant, seed)
    (config.folder / f"{variant}-{seed}" / "captions.json").write_text(json.dumps(said, indent=1))
    result = {
        "variant": variant,
        "seed": seed,
        "recipe": identity,
        "figures": {**figures(config, said, references), **started["figures"]},
        "curve": started["curve"],
        "test_images": len(said),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    storage.write_bytes(str(path), json.dumps(result, indent=1).encode() + b"\n")


def recipe(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """What the figures of a cell depend on."""
    judges = {"clip": config.clip, "judge": f"{config.judge}/best"}
    trainer = job(config, variant, seed).trainer
    return {
        "configs": f"configs/{'scst' if variant in REWARDS else 'captioner'}/*_{config.configs}.yaml",
        "epochs": trainer.epochs,
        "max_steps": trainer.max_steps,
        "batch_size": trainer.batch_size,
        "learning_rate": trainer.learning_rate,
        "decoding": f"greedy, at most {MAX_LENGTH} words, nothing blocked",
        "test": config.scenes,
        **{name: _digest(uri) for name, uri in judges.items()},
    }


def _digest(uri: str) -> str | None:
    """Of a checkpoint; None where there is none."""
    return checkpoint.load(uri).digest if storage.exists(storage.join(uri, checkpoint.METADATA)) else None


# ---- training


def job(config: "Config", variant: str, seed: int) -> Any:
    """The config of the job that trains a cell."""
    output = config.folder / f"{variant}-{seed}"
    options = {
        "trainer.output": str(output),
        "trainer.seed": seed,
        "trainer.threads_per_worker": config.threads,
    }
    options |= {"trainer.max_steps": SHORT_STEPS} if config.short else {}
    if variant in REWARDS:
        options |= {} if config.short else {"trainer.max_steps": REWARD_STEPS}
        options["start"] = str(config.folder / f"glied-{seed}" / "best")
        if variant != "cider":
            options["reward.clip.checkpoint"] = config.clip
        return configured(train_scst.Config, f"scst/{variant}_{config.configs}.yaml", options)
    options |= {} if config.short else {"trainer.epochs": XE_EPOCHS, "trainer.validate_every_epochs": 1}
    if variant == "base_wide":
        options["model.width"] = wide_base(config.configs)
    elif variant not in ("base", "glied"):
        options[f"model.{variant}"] = "true"
    name = "base" if variant.startswith("base") else "glied"
    return configured(train_captioner.Config, f"captioner/{name}_{config.configs}.yaml", options)


@cache
def wide_base(configs: str) -> int:
    """The width at which Base comes nearest to GLIED's number of parameters, at the demo's sizes."""
    base, glied = (
        configured(train_captioner.Config, f"captioner/{name}_{configs}.yaml", {}).model
        for name in ("base", "glied")
    )
    wanted, step = _size(glied), 2 * base.heads
    widths = range(base.width, 3 * base.width, step)
    return min(widths, key=lambda width: abs(_size(dataclasses.replace(base, width=width)) - wanted))


def _size(model: CaptionerConfig) -> int:
    with torch.device("meta"):
        built = build_model(model, feature_size=256, vocabulary_size=210)
    return sum(parameter.numel() for parameter in built.parameters())


def train(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """Train a cell and what it starts from; what the run tells of itself."""
    if variant in REWARDS and not (config.folder / f"glied-{seed}" / history.RESULT).exists():
        train(config, "glied", seed)
    settings = job(config, variant, seed)
    task: CaptionerTask | ScstTask
    if variant in REWARDS:
        task = train_scst.build_task(settings)
        task.check()
    else:
        task = train_captioner.build_task(settings)
    train_here(task, settings.trainer)
    return told(settings.trainer, rewarded=variant in REWARDS)


def told(trainer: TrainerConfig, *, rewarded: bool) -> dict[str, Any]:
    """Validations over CPU minutes of training; not of a reward, which XE precedes."""
    run = history.read_history(trainer.output)
    cider = run.scalars(VALIDATION).get("cider", [])
    parameters = sum(one.numel() for one in Captioner.load(f"{trainer.output}/best").model.parameters())
    curve = [
        {"step": step, "cpu_minutes": round(run.cpu_minutes(step), 2), "cider": round(value, 2)}
        for step, value in cider
    ]
    numbers = {
        "parameters, millions": parameters / 1e6,
        "CIDEr val": max(value for _, value in cider) if cider else None,
        "CPU minutes": run.cpu_minutes(run.steps),
    }
    return {"figures": numbers, "curve": [] if rewarded else curve}


# ---- figures


def captions(config: "Config", variant: str, seed: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The caption of each test scene, and its references."""
    folder = config.folder / f"{variant}-{seed}"
    captioner = Captioner.load(str(folder / "best"), DecodingConfig(beam_size=1, max_length=MAX_LENGTH))
    settings = job(config, variant, seed)
    build = train_scst.build_task if variant in REWARDS else train_captioner.build_task
    test = CaptionedRegions(features=config.features, captions=storage.join(config.scenes, "captions.json"))
    limit = SHORT_IMAGES if config.short else None
    names = [test.name(image_id) for image_id in features.image_ids(config.features)[:limit]]
    images = test_images(test, build(settings).predictor, captioner.attribute_count, limit)
    said = dict(zip(names, captions_of(captioner, images), strict=True))
    return said, {name: test.references[name] for name in names}


def figures(config: "Config", said: Mapping[str, str], references: Mapping[str, list[str]]) -> dict[str, Any]:
    """All that is measured of captions, by image; without a CLIP or judge their columns are missing."""
    scores = score(
        tokenized(said, references), ["CIDEr", "BLEU"] if config.short else ["CIDEr", "BLEU", "METEOR"]
    )
    found: dict[str, Any] = {name: scores.values.get(name) for name in ("CIDEr", "BLEU-4", "METEOR")}
    for name, uri in (("clip", config.clip), ("judge", f"{config.judge}/best")):
        if _digest(uri) is not None:
            values = _clip(uri, storage.join(config.scenes, "images"))(said).values
            found |= {f"{name} {figure}": values[figure] for figure in CLIP_FIGURES}
            if name == "clip" and "p(grammatical)" in values:
                found["p(grammatical)"] = values["p(grammatical)"]
    return found | scene_figures(config.scenes, said) | plain_figures(list(said.values()))


@cache
def _clip(uri: str, images: str) -> ClipMetrics:
    """One for all cells: it encodes the images once."""
    return ClipMetrics(ClipConfig(checkpoint=uri), images)


def scene_figures(scenes: str, said: Mapping[str, str]) -> dict[str, float]:
    """Recall of FineCapEval's phrases and precision of what is named, x 100."""
    rows = [row for row in load_annotations(storage.join(scenes, "finecapeval.csv")) if row.image in said]
    found = {}
    for criterion, by_image in word_recall(said, rows).items():
        found[f"recall {criterion}"] = 100 * sum(by_image.values()) / max(1, len(by_image))
    lines = storage.read_bytes(storage.join(scenes, "annotations.jsonl")).decode().splitlines()
    annotated = {line["file_name"]: line for line in map(json.loads, lines)}
    return found | {f"precision {name}": value for name, value in precision(said, annotated).items()}


def plain_figures(texts: list[str]) -> dict[str, float]:
    """Of the captions by themselves; "cut" is the share that is as long as a caption may be."""
    shape = diversity(texts)
    return {
        "repeated bigrams": shape.get("repeats-2", 0.0),
        "length": shape.get("length", 0.0),
        "cut": 100 * sum(len(tokenize(text)) >= MAX_LENGTH for text in texts) / len(texts),
    }
