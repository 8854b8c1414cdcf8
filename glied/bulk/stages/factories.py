"""Factories of the stages: small, picklable and light, since a run's driver need not import torch.

`build` and `inspect` import `model_loading`, which loads the models.
"""

from dataclasses import dataclass
from typing import Any

from glied.bulk.chunks import Stage
from glied.bulk.stages.specs import CaptionSpec, ExtractSpec


@dataclass(frozen=True)
class CaptionFactory(CaptionSpec):
    """Builds a captioning stage where it runs."""

    def build(self) -> Stage:
        """Load the models of the part; see `model_loading.caption_stage`."""
        from glied.bulk.stages import model_loading

        return model_loading.caption_stage(self)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Name of the weights and fingerprint; see `model_loading.caption_fingerprint`."""
        from glied.bulk.stages import model_loading

        return model_loading.caption_fingerprint(self)


@dataclass(frozen=True)
class ExtractFactory(ExtractSpec):
    """Builds the extraction stage where it runs."""

    def build(self) -> Stage:
        """Load the detector; see `model_loading.extract_stage`."""
        from glied.bulk.stages import model_loading

        return model_loading.extract_stage(self)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Name of the extractor and its fingerprint; see `model_loading.extract_fingerprint`."""
        from glied.bulk.stages import model_loading

        return model_loading.extract_fingerprint(self)
