"""Keys of configs that were renamed: which, and how values are moved to the names of today or back.

A renamed key works for one release, in config files, on the command line and in records of earlier versions.
"""

import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from glied.config_groups import group_at
from glied.errors import UsageError

Config = TypeVar("Config")

log = logging.getLogger(__name__)


def renamed_keys(config_class: type) -> dict[str, str]:
    """The former dotted keys of a config and their names of today.

    A config dataclass declares them, relative to itself, in a class variable:
    `RENAMED: ClassVar[Mapping[str, str]] = {"workers": "resources.workers"}`. Those of the dataclasses
    within it follow its own.
    """
    own: Mapping[str, str] = getattr(config_class, "RENAMED", {})
    # A value that became a group ("rate" is now "rate.peak") comes first: other keys may move into the group.
    renamed = dict(sorted(own.items(), key=lambda names: not names[1].startswith(f"{names[0]}.")))
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        for part in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                inner = renamed_keys(part).items()
                renamed |= {f"{field.name}.{old}": f"{field.name}.{new}" for old, new in inner}
    return renamed


def with_new_keys(config_class: type, values: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """A copy of a config's nested values in which renamed keys have their new names.

    Args:
        config_class: of the values.
        values: may lack keys of the config, and have others.
        warn: log which keys were renamed.

    Raises:
        UsageError: a key is there under both names.
    """
    current, found = move_keys(config_class, values)
    if warn:
        warn_of_former_keys(found)
    return current


def move_keys(config_class: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values, nested, under their new keys, and which renamed keys were found among them."""
    moved = _all_nested(config_class, values)
    found = {}
    for old, new in renamed_keys(config_class).items():
        value = _take(moved, old)
        if value is _ABSENT:
            continue
        if isinstance(value, dict) and new.startswith(f"{old}."):  # the new form: a group of the same name
            _put(moved, old, value, old)
            continue
        _put(moved, new, value, old)
        found[old] = new
    return moved, found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of values in which `a.b: 1` is `a: {b: 1}`, as jsonargparse reads it.

    Raises:
        UsageError: a key is there in both forms.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name, *rest = key.split(".") if isinstance(key, str) else [key]
        for part in reversed(rest):
            value = {part: value}
        _merge(found, name, copy.deepcopy(value), name)
    return found


def flat(tree: Mapping[str, Any], prefix: str = "", *, empty: bool = False) -> dict[str, Any]:
    """The leaves of nested mappings by their dotted keys; an empty mapping is one if `empty` is true."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and (value or not empty)
        leaves |= flat(value, f"{prefix}{key}.", empty=empty) if inner else {f"{prefix}{key}": value}
    return leaves


def _merge(values: dict[Any, Any], name: Any, value: Any, key: str) -> None:
    if name not in values:
        values[name] = value
    elif isinstance(values[name], dict) and isinstance(value, dict):
        for inner_name, inner in value.items():
            _merge(values[name], inner_name, inner, f"{key}.{inner_name}")
    else:
        raise UsageError(f"duplicate config key {key!r}")


def _all_nested(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """As `nested`, in all groups of a config; keys of mappings that are values may have dots."""
    found = nested(values)
    for name in found:
        group = group_at(config_class, name)
        if group is not None and isinstance(found[name], dict):
            found[name] = _all_nested(group, found[name])
    return found


_ABSENT = object()


def _take(values: dict[str, Any], key: str) -> Any:
    """Remove a dotted key and the groups this leaves empty; `_ABSENT` where there is no such key."""
    name, _, rest = key.partition(".")
    if not rest:
        return values.pop(name, _ABSENT)
    inner = values.get(name)
    value = _take(inner, rest) if isinstance(inner, dict) else _ABSENT
    if value is not _ABSENT and not inner:
        del values[name]
    return value


def _put(values: dict[str, Any], key: str, value: Any, old: str) -> None:
    *groups, name = key.split(".")
    for group in groups:
        if values.get(group) is None:
            values[group] = {}
        values = values[group]
        if not isinstance(values, dict):
            raise UsageError(f"config key {old} is now {key}, but {group} is {values!r} and has no keys")
    if name in values:
        raise UsageError(f"config keys {old} and {key} are the same; use only {key}, the new name")
    values[name] = value


def warn_of_former_keys(found: Mapping[str, str]) -> None:
    """Log the keys that were found under a former name, by that name."""
    if found:
        names = ", ".join(f"{old} is now {new}" for old, new in found.items())
        log.warning("renamed config keys, whose old names work until the next release: %s", names)


def from_record(config_class: type[Config], record: Mapping[str, Any]) -> Config:
    """Build `config_class` from values of the right types under keys of today or of an earlier version.

    This is for what the project itself recorded, as in a checkpoint: lists become tuples where the config has
    tuples, and nothing else is checked or converted but by the config.
    """
    built: Config = _from_values(config_class, with_new_keys(config_class, record, warn=False))
    return built


def with_former_keys(config: Any) -> dict[str, Any]:
    """A config's values under the keys they had before, for records that are compared with older ones."""
    values = dataclasses.asdict(config)
    for former, key in renamed_keys(type(config)).items():
        _put(values, former, _take(values, key), key)
    return values


def _from_values(hint: Any, value: Any) -> Any:
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: _from_values(hints.get(name), inner) for name, inner in value.items()})
    return _as_tuple(value) if get_origin(hint) is tuple else value


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value
