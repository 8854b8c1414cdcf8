"""From a config to the extraction of regions: the same run as captioning, into a feature store."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.items import ActorPoolSpec, Job
from glied.bulk.job_parts import actor_pool, check_budget, feature_job
from glied.bulk.stages.factories import ExtractFactory
from glied.bulk.stages.specs import preprocessing
from glied.errors import UsageError
from glied.vision.crops import CopyConfig
from glied.vision.extractors.config import RegionsConfig


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
    """Share of the images that may fail because of storage or workers; rejected ones do not count."""

    def __post_init__(self) -> None:
        """Refuse a budget outside 0 to 1, and an input whose regions are extracted already."""
        check_budget(self.error_budget)
        if self.input.form == "features" or self.regions.kind == "precomputed":
            raise UsageError("regions are extracted from images: no input.form features or kind precomputed")


def extract_factory(config: ExtractRegionsConfig) -> ExtractFactory:
    """The factory of a config."""
    return ExtractFactory(
        config.regions,
        config.resources.worker.batch_size,
        config.resources.worker.decoders,
        missing_rows=config.input.max_missing_rows,
        copy=config.copy,
    )


def extract_pools(config: ExtractRegionsConfig) -> list[ActorPoolSpec]:
    """The pool of workers that a config asks for; extraction has no second part to split off."""
    worker = config.resources.worker
    return [actor_pool(extract_factory(config), worker, threads=worker.threads)]


def extract_job(config: ExtractRegionsConfig) -> Job:
    """The bulk job of a config; raises as `caption_job`."""
    inspection = extract_factory(config).inspect()
    kept: dict[str, Any] = {"preprocessing": preprocessing(config.input.max_missing_rows)}
    if config.copy:
        kept["copy"] = dataclasses.asdict(config.copy)
    return feature_job(config, inspection.model, inspection.fingerprint, kept)
