"""Configs of engines from flat settings."""

from glied.captioner.engines.config import EndpointConfig, TransformersConfig


def grouped(config_class, **settings):
    """Make a config of settings given by their own names, whatever group they are in."""
    own, groups = {}, {}
    for name, value in settings.items():
        group, _, key = config_class.RENAMED.get(name, name).rpartition(".")
        (groups.setdefault(group, {}) if group else own)[key] = value
    types = {
        field.name: field.default_factory for field in vars(config_class)["__dataclass_fields__"].values()
    }
    return config_class(**own, **{group: types[group](**values) for group, values in groups.items()})


def endpoint(**settings):
    return grouped(EndpointConfig, **settings)


def transformers(**settings):
    return grouped(TransformersConfig, **settings)
