"""The records of a run's output folder: run.json says which run it holds, result.json that it is complete."""

import dataclasses
import json
import logging
from typing import Any

from glied import storage
from glied.config_keys import flat, with_new_keys
from glied.errors import UsageError
from glied.training.config import FREE_KEYS, TrainerConfig
from glied.training.history import RESULT, RUN
from glied.training.plan import Plan
from glied.training.task import Task

_LEAST_OF_PEAK = 0.1
"""Share of the peak learning rate that a run must reach."""

logger = logging.getLogger(__name__)


def claim(plan: Plan) -> dict[str, Any] | None:
    """Writes run.json, or compares the run with the one there; returns the result of a complete run.

    Raises:
        UsageError: the output folder holds another run (what differs is named), or one that must not be
            resumed; or a new run's schedule cannot train.
    """
    config, identity = plan.config, _identity(plan)
    uri = storage.join(config.output, RUN)
    if not storage.exists(uri):
        _check_schedule(plan)
    if (
        not storage.put_if_absent(uri, json.dumps(identity, indent=1).encode() + b"\n")
        or not config.recovery.resume
    ):
        _compare(plan, uri, identity)
    done = result(config)
    if not done["complete"]:
        return None
    logger.info("%s: the run is complete (%d steps), nothing to do", config.output, done["steps"])
    return done


def _check_schedule(plan: Plan) -> None:
    """Refuses a warm-up that is longer than the run.

    The published Noam schedule may end within its warm-up (15 epochs of COCO reach 42 % of its peak), if it
    reaches a tenth of its peak.
    """
    config, total, warmup = plan.config, plan.total_steps, plan.config.schedule.warmup_steps
    if warmup <= total:
        return
    reached = total / warmup
    what = (
        f"trainer.schedule.warmup_steps: {warmup} is more than the run's {total} steps, so the learning "
        f"rate reaches {reached:.1%} of {config.optimizer.learning_rate:g}"
    )
    if config.schedule.name != "noam" or reached < _LEAST_OF_PEAK:
        raise UsageError(f"{what}. Lower it, for instance to {max(1, total // 10)}, or train for longer")
    logger.warning("%s", what)


def result(config: TrainerConfig) -> dict[str, Any]:
    """The content of result.json; {"complete": False} before there is one."""
    return _read_json(storage.join(config.output, RESULT)) or {"complete": False}


def _identity(plan: Plan) -> dict[str, Any]:
    """The resolved config as JSON values: the content of run.json."""
    identity = {
        "kind": plan.task.name,
        "rows": {"train": plan.train.rows, "validation": plan.validation.rows},
        "task": _settings(plan.task),
        "trainer": dataclasses.asdict(plan.config),
    }
    return json.loads(json.dumps(identity, default=str))


def _settings(task: Task) -> dict[str, Any]:
    """The fields of a task and, beside them, those of its config but for `trainer`."""
    if not dataclasses.is_dataclass(task):
        return {}
    fields: dict[str, Any] = dataclasses.asdict(task)
    config = fields.pop("config", {})
    config.pop("trainer", None)
    return config | fields


def _defaults(plan: Plan) -> dict[str, Any]:
    """Defaults of the settings by their keys in run.json, for settings that an older run did not have."""
    task = _defaults_of("task", plan.task) | _defaults_of("task", getattr(plan.task, "config", None))
    return task | _defaults_of("trainer", plan.config)


def _defaults_of(key: str, owner: Any) -> dict[str, Any]:
    """Defaults of the fields of a dataclass and of the dataclasses within it; nothing for other values."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if field.default is not dataclasses.MISSING:
            found[f"{key}.{field.name}"] = field.default
        found |= _defaults_of(f"{key}.{field.name}", getattr(owner, field.name))
    return found


def _compare(plan: Plan, uri: str, identity: dict[str, Any]) -> None:
    """Refuses a run.json of another run, and any run.json where `resume` is false."""
    found = _read_json(uri)
    if found is None:
        raise UsageError(f"{uri} cannot be read: remove it or choose another output")
    differences = _differences(_with_new_keys(found, plan), identity, _defaults(plan))
    output = plan.config.output
    if differences:
        raise UsageError(f"{output} holds another run: {'; '.join(differences)}. Choose another output")
    if not plan.config.recovery.resume:
        raise UsageError(f"{output} holds a run and resume is false: choose another output")


def _with_new_keys(record: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The content of run.json with today's keys, also if an earlier version wrote it."""
    current = dict(record)
    for key, config in (("trainer", plan.config), ("task", getattr(plan.task, "config", None))):
        if config is not None and isinstance(current.get(key), dict):
            current[key] = with_new_keys(type(config), current[key], warn=False)
    return current


def _differences(found: dict[str, Any], wanted: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Names what differs between two identities, as "key was old, is new"."""
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
