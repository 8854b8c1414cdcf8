"""Comparison of extractor fingerprints: whether a model was trained on regions of the same extractor."""

import json
from collections.abc import Mapping
from typing import Any

from glied.errors import UsageError

Fingerprint = Mapping[str, Any]

_INEXACT = frozenset({"dtype", "jpeg", "canvas_step"})
"""Settings that change features only slightly and are ignored in the comparison."""


def differences(one: Fingerprint, other: Fingerprint) -> str:
    """Describe the first settings in which two fingerprints differ, with both values."""
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return ", ".join(f"{key} is {other.get(key)!r} and {one.get(key)!r}"[:120] for key in keys[:3])


def check_trained_on(
    model: str, trained_on: Fingerprint | None, given: Fingerprint, source: str, cure: str = ""
) -> None:
    """Reject regions of another extractor than the one that a model was trained on.

    Args:
        model: the trained model, for the message.
        trained_on: fingerprint of the extractor used in training; None for old checkpoints without one.
        given: fingerprint of the extractor of the regions to be read.
        source: where those regions come from, for the message.
        cure: an alternative remedy, for the message.

    Raises:
        UsageError: the fingerprints differ in more than the precision of the features.
    """
    if trained_on is None:
        return
    known, new = _exact(trained_on), _exact(given)
    if known != new:
        keys = sorted(key for key in known.keys() | new.keys() if known.get(key) != new.get(key))
        changes = ", ".join(f"{key} was {known.get(key)!r}, is {new.get(key)!r}"[:120] for key in keys[:3])
        raise UsageError(
            f"{model} was trained on other regions than those of {source}: {changes}. Use the regions of its "
            f"training{cure}"
        )


def same_extractor(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints are of one extractor, up to the precision of its features."""
    return _exact(one) == _exact(other)


def _exact(fingerprint: Fingerprint) -> dict[str, Any]:
    """Return the settings that identify the extractor, as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return {key: value for key, value in values.items() if key not in _INEXACT}
