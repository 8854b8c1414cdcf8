"""Whose an output folder is: run.json says which run it holds, result.json that the run is complete."""

import dataclasses
import json
import logging
from typing import Any

from glied import storage
from glied.errors import UsageError
from glied.training.config import FREE_KEYS, TrainerConfig
from glied.training.history import RESULT, RUN, flat
from glied.training.loop import Plan

_LEAST_OF_PEAK = 0.1
"""Of the peak learning rate, that a run must reach."""

logger = logging.getLogger(__name__)


def claim(plan: Plan) -> dict[str, Any] | None:
    """Writes run.json or compares with the one that is there; returns the result of a complete run.

    Raises:
        UsageError: the output holds another run (what differs is named), or one that is not to be resumed; or
            a new run's schedule cannot train.
    """
    config, identity = plan.config, _identity(plan)
    uri = storage.join(config.output, RUN)
    if not storage.exists(uri):
        _check_schedule(plan)
    if not storage.put_if_absent(uri, json.dumps(identity, indent=1).encode() + b"\n") or not config.resume:
        _compare(config, uri, identity, _defaults(plan))
    done = result(config)
    if not done["complete"]:
        return None
    logger.info("%s: the run is complete (%d steps), nothing to do", config.output, done["steps"])
    return done


def _check_schedule(plan: Plan) -> None:
    """Refuses a warm-up that a run does not live to see the end of.

    The published Noam schedule may end within it (15 epochs of COCO reach 42 % of its peak), if it gets
    anywhere.
    """
    config, total = plan.config, plan.total_steps
    if config.warmup_steps <= total:
        return
    reached = total / config.warmup_steps
    what = (
        f"trainer.warmup_steps: {config.warmup_steps} is more than the run's {total} steps, so the learning "
        f"rate reaches {reached:.1%} of {config.learning_rate:g}"
    )
    if config.schedule != "noam" or reached < _LEAST_OF_PEAK:
        raise UsageError(f"{what}. Lower it, for instance to {max(1, total // 10)}, or train for longer")
    logger.warning("%s", what)


def result(config: TrainerConfig) -> dict[str, Any]:
    """The content of result.json; {"complete": False} before there is one."""
    return _read_json(storage.join(config.output, RESULT)) or {"complete": False}


def _identity(plan: Plan) -> dict[str, Any]:
    """The resolved config as JSON values: what run.json holds."""
    task, rows = plan.task, {"train": plan.train.rows, "validation": plan.validation.rows}
    fields: dict[str, Any] = dataclasses.asdict(task) if dataclasses.is_dataclass(task) else {}
    trainer = dataclasses.asdict(plan.config)
    return json.loads(
        json.dumps({"kind": task.name, "rows": rows, "task": fields, "trainer": trainer}, default=str)
    )


def _defaults(plan: Plan) -> dict[str, Any]:
    """Defaults of the settings, by their keys in run.json: what older runs have of later settings."""
    return _defaults_of("task", plan.task) | _defaults_of("trainer", plan.config)


def _defaults_of(key: str, owner: Any) -> dict[str, Any]:
    """Those of the fields of a dataclass and of the dataclasses in them; nothing for other values."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if field.default is not dataclasses.MISSING:
            found[f"{key}.{field.name}"] = field.default
        found |= _defaults_of(f"{key}.{field.name}", getattr(owner, field.name))
    return found


def _compare(config: TrainerConfig, uri: str, identity: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuses a run.json that is not that of this run, and one that is where nothing is to be resumed."""
    found = _read_json(uri)
    if found is None:
        raise UsageError(f"{uri} cannot be read: remove it or choose another output")
    differences = _differences(found, identity, defaults)
    if differences:
        raise UsageError(
            f"{config.output} holds another run: {'; '.join(differences)}. Choose another output"
        )
    if not config.resume:
        raise UsageError(f"{config.output} holds a run and resume is false: choose another output")


def _differences(found: dict[str, Any], wanted: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Names what differs between two identities, as `key: old -> new`."""
    old, new = flat(found), flat(wanted)
    old = {key: defaults[key] for key in new if key in defaults} | old
    free = {f"trainer.{key}" for key in FREE_KEYS}
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in free and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys]


def _read_json(uri: str) -> dict[str, Any] | None:
    try:
        return json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, ValueError):
        return None
