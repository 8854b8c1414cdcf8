"""Refuses values that do not fit the groups of a config, which jsonargparse ignores or reports obscurely."""

import dataclasses
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from glied.errors import UsageError

_NAMED = 4
"""Settings of a group that a message names."""


def group_at(config_class: type, key: str) -> type | None:
    """The dataclass of a group of settings by its dotted key; None where the key is not that of a group."""
    found: type | None = config_class
    for name in key.split("."):
        found = _group_of(get_type_hints(found).get(name)) if found is not None else None
    return found


def check_groups(config_class: type, values: Mapping[str, Any], within: str = "") -> None:
    """Check that groups are groups and that nothing is null which must not be.

    Args:
        config_class: of the values.
        values: nested; may lack keys of the config, and have others.
        within: what messages say before their keys, such as "teacher.options.".

    Raises:
        UsageError: naming the key.
    """
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in values:
            continue
        key, hint, value = f"{within}{field.name}", hints[field.name], values[field.name]
        group = _group_of(hint)
        if value is None and not _allows_null(hint):
            raise UsageError(f"{key} {_purpose(hint)}, not null")
        if group is None or value is None:
            continue
        if isinstance(value, Mapping):
            check_groups(group, value, f"{key}.")
        elif group is not hint or not isinstance(value, str):  # jsonargparse reads a file of this name
            raise UsageError(f"{key} {_purpose(hint)}, not {_shown(value)}")


def _purpose(hint: Any) -> str:
    group = _group_of(hint)
    if group is None:
        return "needs a value"
    names = [field.name for field in dataclasses.fields(group)]
    more = ", ..." if len(names) > _NAMED else ""
    return f"holds settings ({', '.join(names[:_NAMED])}{more})"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _group_of(hint: Any) -> type | None:
    """The dataclass that a hint names alone or beside null."""
    parts = [part for part in (get_args(hint) or (hint,)) if part is not NoneType]
    is_group = len(parts) == 1 and isinstance(parts[0], type) and dataclasses.is_dataclass(parts[0])
    return parts[0] if is_group and (parts[0] is hint or NoneType in get_args(hint)) else None


def _allows_null(hint: Any) -> bool:
    return hint is Any or NoneType in get_args(hint)
