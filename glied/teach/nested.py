"""Settings of jobs as nested values."""

from collections.abc import Mapping
from typing import Any

from glied.shipped import locate
from glied.storage import absolute


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, in which those of `others` replace the same ones of `values`."""
    found = dict(values)
    for key, value in others.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def located(checkpoint: str) -> str:
    """A checkpoint as workers and other commands find it: shipped weights by their absolute path."""
    return absolute(locate(checkpoint)) if checkpoint else ""


def with_located_checkpoints(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings in which every `checkpoint` is `located`.

    Records of steps hold checkpoints as they were given, so that the project and its weights can move.
    """
    found = dict(values)
    for key, value in values.items():
        if isinstance(value, Mapping):
            found[key] = with_located_checkpoints(value)
        elif key == "checkpoint" and isinstance(value, str):
            found[key] = located(value)
    return found
