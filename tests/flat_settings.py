"""Configs for tests, from settings without their groups."""

import dataclasses
from typing import Any, TypeVar, get_type_hints

Config = TypeVar("Config")


def flat(config_class: type[Config], **settings: Any) -> Config:
    """`flat(DecodingConfig, top_k=5)` is `DecodingConfig(sampling=TokenSamplingConfig(top_k=5))`."""
    hints = get_type_hints(config_class)
    own = {one.name for one in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    found = {name: settings[name] for name in settings.keys() & own}
    rest = {name: settings[name] for name in settings.keys() - own}
    for group in own - found.keys():
        if dataclasses.is_dataclass(hints[group]):
            inner = {one.name for one in dataclasses.fields(hints[group])}
            given = {name: rest.pop(name) for name in rest.keys() & inner}
            if given:
                found[group] = hints[group](**given)
    return config_class(**found, **rest)
