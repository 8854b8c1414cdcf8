"""Region configs for tests, from settings without their groups."""

from typing import Any

from glied.vision.extractors.config import RegionsConfig
from tests.flat_settings import flat


def regions_config(**settings: Any) -> RegionsConfig:
    """`regions_config(min_regions=2)` is `RegionsConfig(detector=DetectionConfig(min_regions=2))`."""
    return flat(RegionsConfig, **settings)
