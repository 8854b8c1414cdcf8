"""Whether regions come from the extractor that a model was trained on, by the extractor's fingerprint."""

import json
from collections.abc import Mapping
from typing import Any

from glied.errors import UsageError

Fingerprint = Mapping[str, Any]

_INEXACT = frozenset({"dtype", "jpeg", "canvas_step"})
"""Settings that move features by a little, and make no other extractor."""


def differences(one: Fingerprint, other: Fingerprint) -> str:
    """The first settings in which two fingerprints differ, with the values of both."""
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return ", ".join(f"{key} is {other.get(key)!r} and {one.get(key)!r}"[:120] for key in keys[:3])


def check_trained_on(
    model: str, trained_on: Fingerprint | None, given: Fingerprint, source: str, cure: str = ""
) -> None:
    """Refuse regions of another extractor than a model was trained on.

    Args:
        model: what was trained, for the message.
        trained_on: fingerprint of the extractor in training; None of checkpoints from before they had one.
        given: fingerprint of the extractor of the regions that it is to read.
        source: where those come from, for the message.
        cure: what else can be done, for the message.

    Raises:
        UsageError: they differ in more than the precision of their features.
    """
    if trained_on is None:
        return
    known, new = _exact(trained_on), _exact(given)
    if known != new:
        keys = sorted(key for key in known.keys() | new.keys() if known.get(key) != new.get(key))
        found = ", ".join(f"{key} was {known.get(key)!r}, is {new.get(key)!r}"[:120] for key in keys[:3])
        raise UsageError(
            f"{model} was trained on other regions than those of {source}: {found}. Take regions as in its "
            f"training{cure}"
        )


def same_extractor(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints are of one extractor, up to the precision of its features."""
    return _exact(one) == _exact(other)


def _exact(fingerprint: Fingerprint) -> dict[str, Any]:
    """What makes the extractor, as JSON keeps it."""
    values: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return {key: value for key, value in values.items() if key not in _INEXACT}
