"""Region configs for tests, from settings without their groups."""

from typing import Any

from glied.vision.extractors.config import CellsConfig, ComputeConfig, DetectionConfig, RegionsConfig

GROUPS = {"detector": DetectionConfig, "timm": CellsConfig, "compute": ComputeConfig}


def regions_config(**settings: Any) -> RegionsConfig:
    """`regions_config(min_regions=2)` is `RegionsConfig(detector=DetectionConfig(min_regions=2))`."""
    grouped: dict[str, dict[str, Any]] = {}
    for old, new in RegionsConfig.RENAMED.items():
        if old in settings:
            grouped.setdefault(new.partition(".")[0], {})[old] = settings.pop(old)
    return RegionsConfig(**settings, **{name: GROUPS[name](**values) for name, values in grouped.items()})
