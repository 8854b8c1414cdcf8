"""Settings of jobs as nested values."""

from collections.abc import Mapping
from typing import Any


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, in which those of `others` replace the same ones of `values`."""
    found = dict(values)
    for key, value in others.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found
