"""One run of benchmarks/claims.py: train a variant with a seed, caption the test images, measure."""

import dataclasses
import json
import time
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.captioners import captions_of, configured, test_images
from benchmarks.claims_figures import MAX_LENGTH, Captions, References, digest, figures
from benchmarks.measurement import torch_machine
from glied import storage
from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.model import CaptionerConfig
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.training import history
from glied.training.config import TrainerConfig
from glied.training.history import VALIDATION
from glied.training.local_trainer import train_here
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.training.tasks.scst import ScstTask, TrainScstConfig

if TYPE_CHECKING:
    from benchmarks.claims_config import Config

RECORDED = {
    **{name: name for name in ("epochs", "max_steps", "batch_size")},
    **{name: f"optimizer.{name}" for name in ("learning_rate", "ema_decay", "precision")},
    "schedule": "schedule.name",
    "warmup_steps": "schedule.warmup_steps",
}
"""Trainer settings recorded in the recipe of a run, and their keys."""
SHORT_STEPS, SHORT_IMAGES = 2, 20
JUDGE_R1, JUDGE_POOL = 70.0, 5000
"""R@1 of full descriptions, and the pool size, that the judge must reach before a reward is trained."""


def prepare(config: "Config") -> None:
    """Set the number of torch threads and check the judge before training begins.

    Raises:
        UsageError: a reward is to be measured on test and the judge is missing or not good enough.
    """
    torch.set_num_threads(config.threads)
    config.result_folder.mkdir(parents=True, exist_ok=True)
    rewards = any(config.spec.variants[variant].reward for variant, _ in config.planned_runs)
    on_test = config.scenes == config.spec.test  # any CLIP may judge where settings are chosen
    if config.full and config.spec.needs_judge and rewards and on_test:
        check_judge(config.judge)


def check_judge(run: str) -> None:
    """Raise `UsageError` unless a training run is a judge that distinguishes the images well enough."""
    try:
        result = json.loads(storage.read_bytes(storage.join(run, history.RESULT)))
        pool, r1 = int(result["validation"]["pool"]), float(result["best"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{run} is not a complete run of jobs/train_clip.py: train configs/clip/judge.yaml"
        ) from None
    if pool < JUDGE_POOL or r1 < JUDGE_R1:
        raise UsageError(
            f"{run}: full descriptions reach R@1 {r1:.1f} in a pool of {pool}; a judge needs "
            f"{JUDGE_R1:g} in {JUDGE_POOL} before a reward is trained: train it longer"
        )


def measure(config: "Config", variant: str, seed: int) -> None:
    """Train and measure a run, and write its result file unless it is up to date."""
    path = config.result_folder / f"{variant}-{seed}.json"
    wanted = recipe(config, variant, seed)
    if path.exists() and _up_to_date(json.loads(path.read_text())["recipe"], wanted):
        return
    training = train(config, variant, seed)
    by_beam, references = captions(config, variant, seed)
    measured = figures(config, by_beam, references)
    for beam, texts in by_beam.items():
        name = "captions.json" if beam == 1 else f"captions_beam{beam}.json"
        (config.folder / f"{variant}-{seed}" / name).write_text(json.dumps(texts, indent=1))
    result = {
        "variant": variant,
        "seed": seed,
        "recipe": wanted,
        "figures": {**measured.values, **training["figures"]},
        "curve": training["curve"],
        "test_images": len(references),
        "machine": torch_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    by_image = json.dumps(measured.by_image, separators=(",", ":"))  # without a line for each number
    text = f'{json.dumps(result, indent=1)[:-2]},\n "by_image": {by_image}\n}}\n'
    storage.write_bytes(str(path), text.encode())


def recipe(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """Return everything that the figures of a run depend on."""
    trainer, world = job(config, variant, seed).trainer, config.spec
    beams = f" and beam {world.beam}" if world.beam else ""
    return {
        "configs": f"configs/{config_name(config, variant, any_name=True)}",
        **{name: attrgetter(key)(trainer) for name, key in RECORDED.items()},
        "decoding": f"greedy{beams}, at most {MAX_LENGTH} words, nothing blocked",
        "test": config.scenes,
        "regions": features.fingerprint(config.features).get("weights"),
        "clip": digest(config.clip),
        "judge": digest(config.judge_checkpoint),
        **changes(config.spec.variants[variant].settings),
    }


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a variant changes in its config, and the digest of a CLIP of its own."""
    if not settings:
        return {}
    clip = settings.get("reward.clip.checkpoint")
    return {"settings": dict(settings), **({"rewarding_clip": digest(clip)} if clip else {})}


def _up_to_date(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a stored recipe is the wanted one; keys that an older file lacks are ignored."""
    return all(wanted.get(key) == value for key, value in stored.items())


# ---- training


def job(config: "Config", variant: str, seed: int) -> Any:
    """Return the config of the job that trains a run, before `equal_size` is applied."""
    chosen = config.spec.variants[variant]
    options: dict[str, Any] = {f"trainer.{key}": value for key, value in _lengths(config, variant).items()}
    options |= {
        "trainer.output": str(config.folder / f"{variant}-{seed}"),
        "trainer.seed": seed,
        "trainer.resources.threads_per_worker": config.threads,
    }
    name = config_name(config, variant)
    if not chosen.reward:
        options |= {f"model.{key}": str(value).lower() for key, value in chosen.model.items()}
        return configured(TrainCaptionerConfig, name, options)
    options["start"] = str(config.folder / f"glied-{seed}" / "best")
    if chosen.reward != "cider":
        options["reward.clip.checkpoint"] = config.clip
    options |= chosen.settings
    return configured(TrainScstConfig, name, options)


def config_name(config: "Config", variant: str, *, any_name: bool = False) -> str:
    """Return the config file of a variant, below configs/; with `any_name`, a pattern with * as its name."""
    reward = config.spec.variants[variant].reward
    pattern = config.spec.reward if reward else config.spec.captioner
    return pattern.format(name="*" if any_name else reward or "glied", configs=config.configs)


def _lengths(config: "Config", variant: str) -> Mapping[str, Any]:
    if config.short:
        return {"max_steps": SHORT_STEPS, "schedule.warmup_steps": 0}
    return config.spec.rewarded if config.spec.variants[variant].reward else config.spec.xe


def xe_task(config: "Config", variant: str, seed: int) -> CaptionerTask:
    """Return the task that trains a variant with XE, with the model resized if requested."""
    task = CaptionerTask(config=job(config, variant, seed))
    chosen = config.spec.variants[variant]
    if not chosen.sized:
        return task
    goal = job(config, chosen.size_of, seed).model
    sizes = {"feature_size": task.predictor.feature_size, "vocabulary_size": len(task.vocabulary)}
    model = equal_size(task.config.model, chosen.sized, goal, **sizes)
    return dataclasses.replace(task, config=dataclasses.replace(task.config, model=model))


def equal_size(
    model: CaptionerConfig, setting: str, goal: CaptionerConfig, *, feature_size: int, vocabulary_size: int
) -> CaptionerConfig:
    """Choose the value of `setting` that brings the number of parameters closest to that of `goal`."""
    sizes = {"feature_size": feature_size, "vocabulary_size": vocabulary_size}
    wanted = parameters(goal, **sizes)
    steps = range(model.heads, 8 * goal.width + 1, model.heads)
    settings: list[dict[str, Any]] = [{setting: value} for value in steps]
    candidates = [dataclasses.replace(model, **one) for one in settings]
    return min(candidates, key=lambda one: abs(parameters(one, **sizes) - wanted))


def parameters(model: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> int:
    """Count the parameters of a model; tied weights count once."""
    with torch.device("meta"):
        built = build_model(model, feature_size=feature_size, vocabulary_size=vocabulary_size)
    return sum(one.numel() for one in built.parameters())


def train(config: "Config", variant: str, seed: int) -> dict[str, Any]:
    """Train a run, and first the XE run it starts from; return the figures of its training."""
    rewarded = bool(config.spec.variants[variant].reward)
    if rewarded and not (config.folder / f"glied-{seed}" / history.RESULT).exists():
        train(config, "glied", seed)
    settings = job(config, variant, seed)
    task: CaptionerTask | ScstTask
    if rewarded:
        task = ScstTask.of(settings)
        task.check()
    else:
        task = xe_task(config, variant, seed)
    train_here(task, settings.trainer)
    return training_figures(settings.trainer, rewarded=rewarded)


def training_figures(trainer: TrainerConfig, *, rewarded: bool) -> dict[str, Any]:
    """Return the figures of a training run and, for XE, validation CIDEr over CPU minutes."""
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
    """Return the captions of the test images by number of beams, and the references.

    Raises:
        UsageError: the captioner was trained on regions of a different extractor.
    """
    settings = job(config, variant, seed)
    task_class: type[ScstTask] | type[CaptionerTask]
    task_class = ScstTask if config.spec.variants[variant].reward else CaptionerTask
    best = str(config.folder / f"{variant}-{seed}" / "best")
    captioners = {
        beam: Captioner.load(best, DecodingConfig(beam_size=beam, max_length=MAX_LENGTH))
        for beam in dict.fromkeys((1, config.spec.beam or 1))
    }
    test = CaptionedRegions(features=config.features, captions=storage.join(config.scenes, "captions.json"))
    check_trained_on(best, captioners[1].extractor, test.extractor, test.features, ", or delete the run")
    limit = SHORT_IMAGES if config.short else None
    names = [test.name(image_id) for image_id in features.image_ids(config.features)[:limit]]
    images = test_images(test, task_class(settings).predictor, captioners[1].attribute_count, limit)
    by_beam = {
        beam: dict(zip(names, captions_of(captioner, images), strict=True))
        for beam, captioner in captioners.items()
    }
    return by_beam, {name: test.references[name] for name in names}
