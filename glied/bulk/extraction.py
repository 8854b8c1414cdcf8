"""From a config to the extraction of regions: the same run as captioning, into a feature store."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from glied.bulk import sinks
from glied.bulk.captioning import check_budget, check_device, image_pool, located, preprocessing
from glied.bulk.chunks import Pool
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.job import Job
from glied.bulk.stages import ExtractRegions, ImageStage
from glied.datasets import features
from glied.vision.decoding import DecoderPool
from glied.vision.regions import RegionExtractor, RegionsConfig, load_extractor


@dataclass(frozen=True, kw_only=True)
class ExtractRegionsConfig:
    """Regions and their features of all images under a prefix."""

    input: InputConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is; its folder features/ is the feature store."""
    regions: RegionsConfig
    """How regions are found."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What the run uses."""
    error_budget: float = 0.0
    """Share of the images that may fail for reasons of ours."""

    def __post_init__(self) -> None:
        """Refuse a budget that is no share."""
        check_budget(self.error_budget)


@dataclass(frozen=True)
class ExtractFactory:
    """Builds the extraction stage where it runs."""

    regions: RegionsConfig
    batch_size: int
    decoders: int

    def build(self) -> ImageStage:
        """Load the detector."""
        check_device(self.regions.device)
        extractor = load_extractor(located(self.regions))
        describe = ExtractRegions(extractor, model=self._name(extractor))
        return ImageStage(describe, DecoderPool(self.decoders), batch_size=self.batch_size)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Load the detector once, on the CPU; its name and its fingerprint."""
        extractor = load_extractor(dataclasses.replace(located(self.regions), device="cpu"))
        return self._name(extractor), dict(extractor.fingerprint)

    def _name(self, extractor: RegionExtractor) -> str:
        identity = json.dumps(dict(extractor.fingerprint), sort_keys=True)
        return f"{self.regions.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def extract_factory(config: ExtractRegionsConfig) -> ExtractFactory:
    """The factory of a config."""
    return ExtractFactory(config.regions, config.resources.batch_size, config.resources.decoders)


def extract_pools(config: ExtractRegionsConfig) -> list[Pool]:
    """The pool of workers that a config asks for; extraction has no second part to split off."""
    return [image_pool(extract_factory(config), config.resources)]


def extract_job(config: ExtractRegionsConfig) -> Job:
    """The bulk job of a config."""
    model, fingerprint = extract_factory(config).inspect()
    # An empty table of the store, for the metadata that its files carry.
    metadata = features.write([], [], fingerprint=fingerprint).schema.metadata
    return Job(
        results="features",
        schema=sinks.FEATURES.with_metadata(metadata),
        encode=features.parquet_bytes,
        model=model,
        config=dataclasses.asdict(config),
        fingerprint={
            "regions": fingerprint,
            "preprocessing": preprocessing(),
            "schema": sinks.SCHEMA_VERSION,
        },
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=config.error_budget,
        example=lambda _: None,
    )
