"""From a config to the extraction of regions: the same run as captioning, into a feature store."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from glied.bulk import sinks
from glied.bulk.apart import in_child
from glied.bulk.captioning import check_budget, image_pool, preprocessing
from glied.bulk.chunks import Pool, Stage
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.job import Job
from glied.datasets import features
from glied.errors import UsageError
from glied.vision.config import RegionsConfig
from glied.vision.crops import CopyConfig


@dataclass(frozen=True, kw_only=True)
class ExtractRegionsConfig:
    """Regions and their features of all images under a prefix."""

    input: InputConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is; its folder features/ is the feature store."""
    regions: RegionsConfig
    """How regions are found."""
    copy: CopyConfig | None = None
    """Take the regions of a random crop of each image: a store of copies to train on too (`train.copies`)."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What the run uses."""
    error_budget: float = 0.0
    """Share of the images that may fail for reasons of ours."""

    def __post_init__(self) -> None:
        """Refuse a budget that is no share, and regions that are there already."""
        check_budget(self.error_budget)
        if self.input.form == "features" or self.regions.kind == "precomputed":
            raise UsageError("regions are extracted from images: no input.form features or kind precomputed")


@dataclass(frozen=True)
class ExtractFactory:
    """Builds the extraction stage where it runs."""

    regions: RegionsConfig
    batch_size: int
    decoders: int
    missing_rows: float = 0.0
    copy: CopyConfig | None = None

    def build(self) -> Stage:
        """Load the detector; see `loading.extract_stage`."""
        from glied.bulk import loading

        return loading.extract_stage(self)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Name of the extractor and its fingerprint; see `loading.extract_fingerprint`."""
        from glied.bulk import loading

        return loading.extract_fingerprint(self)


def extract_factory(config: ExtractRegionsConfig) -> ExtractFactory:
    """The factory of a config."""
    return ExtractFactory(
        config.regions,
        config.resources.batch_size,
        config.resources.decoders,
        missing_rows=config.input.max_missing_rows,
        copy=config.copy,
    )


def extract_pools(config: ExtractRegionsConfig) -> list[Pool]:
    """The pool of workers that a config asks for; extraction has no second part to split off."""
    return [image_pool(extract_factory(config), config.resources)]


def extract_job(config: ExtractRegionsConfig, *, apart: bool = False) -> Job:
    """The bulk job of a config; `apart` as for `caption_job`."""
    factory = extract_factory(config)
    model, fingerprint = (
        in_child(factory.inspect, purpose="looks at the models") if apart else factory.inspect()
    )
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
            "preprocessing": preprocessing(config.input.max_missing_rows),
            "schema": features.SCHEMA_VERSION,
            **({"copy": dataclasses.asdict(config.copy)} if config.copy else {}),
        },
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=config.error_budget,
        example=None,
    )
