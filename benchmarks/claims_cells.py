"""One cell of benchmarks/claims.py: train a variant with a seed, caption the test images, measure."""

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.claims_figures import MAX_LENGTH, Captions, References, digest, figures
from benchmarks.decoding import machine
from benchmarks.table2 import captions_of, configured, test_images
from glied import storage
from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.model import CaptionerConfig
from glied.commands import train_captioner, train_scst
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.training import history
from glied.training.config import TrainerConfig
from glied.training.history import VALIDATION
from glied.training.local_trainer import train_here
from glied.training.tasks.captioner import CaptionerTask
from glied.training.tasks.scst import ScstTask

if TYPE_CHECKING:
    from benchmarks.claims_config import Config

RECORDED = (
    *("epochs", "max_steps", "batch_size", "learning_rate"),
    *("schedule", "warmup_steps", "ema_decay", "precision"),
)
"""Settings of the trainer that a cell's recipe names."""
SHORT_STEPS, SHORT_IMAGES = 2, 20
JUDGE_R1, JUDGE_POOL = 70.0, 5000
"""What the judge must reach with full descriptions, and among how many images, before a reward is trained."""


def prepare(config: "Config") -> None:
    """Set torch up, and find what is missing before hours are spent.

    Raises:
        UsageError: a reward is to be trained and the judge is missing or unfit.
    """
    torch.set_num_threads(config.threads)
    config.cells.mkdir(parents=True, exist_ok=True)
    rewards = any(config.spec.variants[variant].reward for variant, _ in config.work)
    if config.full and config.spec.needs_judge and rewards:
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
    if path.exists() and _same(json.loads(path.read_text())["recipe"], identity):
        return
    started = train(config, variant, seed)
    said, references = captions(config, variant, seed)
    found = figures(config, said, references)
    for beam, texts in said.items():
        name = "captions.json" if beam == 1 else f"captions_beam{beam}.json"
        (config.folder / f"{variant}-{seed}" / name).write_text(json.dumps(texts, indent=1))
    result = {
        "variant": variant,
        "seed": seed,
        "recipe": identity,
        "figures": {**found.values, **started["figures"]},
        "by_image": found.by_image,
        "curve": started["curve"],
        "test_images": len(references),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    storage.write_bytes(str(path), json.dumps(result, indent=1).encode() + b"\n")


def recipe(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """What the figures of a cell depend on."""
    trainer, world = job(config, variant, seed).trainer, config.spec
    beams = f" and beam {world.beam}" if world.beam else ""
    return {
        "configs": f"configs/{config_name(config, variant, any_name=True)}",
        **{key: getattr(trainer, key) for key in RECORDED},
        "decoding": f"greedy{beams}, at most {MAX_LENGTH} words, nothing blocked",
        "test": config.scenes,
        "regions": features.fingerprint(config.features).get("weights"),
        "clip": digest(config.clip),
        "judge": digest(config.judge_checkpoint),
    }


def _same(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether the recipe of a cell is this one; what an older cell does not name is not held against it."""
    return all(identity.get(key) == value for key, value in stored.items())


# ---- training


def job(config: "Config", variant: str, seed: int) -> Any:
    """The config of the job that trains a cell; what is `sized` is not yet."""
    chosen = config.spec.variants[variant]
    options: dict[str, Any] = {f"trainer.{key}": value for key, value in _lengths(config, variant).items()}
    options |= {
        "trainer.output": str(config.folder / f"{variant}-{seed}"),
        "trainer.seed": seed,
        "trainer.threads_per_worker": config.threads,
    }
    name = config_name(config, variant)
    if not chosen.reward:
        options |= {f"model.{key}": str(value).lower() for key, value in chosen.model.items()}
        return configured(train_captioner.Config, name, options)
    options["start"] = str(config.folder / f"glied-{seed}" / "best")
    if chosen.reward != "cider":
        options["reward.clip.checkpoint"] = config.clip
    return configured(train_scst.Config, name, options)


def config_name(config: "Config", variant: str, *, any_name: bool = False) -> str:
    """The file below configs/ that trains a variant; with `any_name` as a pattern for all of its kind."""
    reward = config.spec.variants[variant].reward
    pattern = config.spec.reward if reward else config.spec.captioner
    return pattern.format(name="*" if any_name else reward or "glied", configs=config.configs)


def _lengths(config: "Config", variant: str) -> Mapping[str, Any]:
    if config.short:
        return {"max_steps": SHORT_STEPS, "warmup_steps": 0}
    return config.spec.rewarded if config.spec.variants[variant].reward else config.spec.xe


def xe_task(config: "Config", variant: str, seed: int) -> CaptionerTask:
    """What trains a variant under XE, its model of GLIED's size where it is to be."""
    task = train_captioner.build_task(job(config, variant, seed))
    setting = config.spec.variants[variant].sized
    if not setting:
        return task
    glied = job(config, "glied", seed).model
    sizes = {"feature_size": task.predictor.feature_size, "vocabulary_size": len(task.vocabulary)}
    return dataclasses.replace(task, model=equal_size(task.model, setting, glied, **sizes))


def equal_size(
    model: CaptionerConfig, setting: str, glied: CaptionerConfig, *, feature_size: int, vocabulary_size: int
) -> CaptionerConfig:
    """The model with that width or feed-forward width at which it comes nearest to GLIED's parameters."""
    sizes = {"feature_size": feature_size, "vocabulary_size": vocabulary_size}
    wanted = parameters(glied, **sizes)
    steps = range(model.heads, 4 * glied.width + 1, model.heads)
    settings: list[dict[str, Any]] = [{setting: value} for value in steps]
    candidates = [dataclasses.replace(model, **one) for one in settings]
    return min(candidates, key=lambda one: abs(parameters(one, **sizes) - wanted))


def parameters(model: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> int:
    """How many a model has; tied weights count once."""
    with torch.device("meta"):
        built = build_model(model, feature_size=feature_size, vocabulary_size=vocabulary_size)
    return sum(one.numel() for one in built.parameters())


def train(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """Train a cell and what it starts from; what the run tells of itself."""
    rewarded = bool(config.spec.variants[variant].reward)
    if rewarded and not (config.folder / f"glied-{seed}" / history.RESULT).exists():
        train(config, "glied", seed)
    settings = job(config, variant, seed)
    task: CaptionerTask | ScstTask
    if rewarded:
        task = train_scst.build_task(settings)
        task.check()
    else:
        task = xe_task(config, variant, seed)
    train_here(task, settings.trainer)
    return told(settings.trainer, rewarded=rewarded)


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


# ---- captions


def captions(config: "Config", variant: str, seed: int) -> tuple[dict[int, Captions], References]:
    """The captions of the test images by number of beams, and the references.

    Raises:
        UsageError: the captioner was trained on regions of another extractor than those of the test images.
    """
    settings = job(config, variant, seed)
    build = train_scst.build_task if config.spec.variants[variant].reward else train_captioner.build_task
    best = str(config.folder / f"{variant}-{seed}" / "best")
    captioners = {
        beam: Captioner.load(best, DecodingConfig(beam_size=beam, max_length=MAX_LENGTH))
        for beam in dict.fromkeys((1, config.spec.beam or 1))
    }
    test = CaptionedRegions(features=config.features, captions=storage.join(config.scenes, "captions.json"))
    check_trained_on(best, captioners[1].extractor, test.extractor, test.features, ", or delete the run")
    limit = SHORT_IMAGES if config.short else None
    names = [test.name(image_id) for image_id in features.image_ids(config.features)[:limit]]
    images = test_images(test, build(settings).predictor, captioners[1].attribute_count, limit)
    said = {
        beam: dict(zip(names, captions_of(captioner, images), strict=True))
        for beam, captioner in captioners.items()
    }
    return said, {name: test.references[name] for name in names}
