"""What the configs of several bulk jobs have in common: their pools of actors, and checks."""

import dataclasses
from typing import Any, ClassVar, Protocol

from glied.bulk import row_schemas
from glied.bulk.config import ActorsConfig, InputConfig, OutputConfig, PublishedConfig, ResourcesConfig
from glied.bulk.items import ActorPoolSpec, Job, StageFactory
from glied.data import features
from glied.errors import UsageError


def check_budget(budget: float) -> None:
    """Refuse an error budget outside 0 to 1."""
    if not 0 <= budget <= 1:
        raise UsageError(f"error_budget: {budget} is not between 0 and 1")


def actor_pool(factory: StageFactory, actors: ActorsConfig, *, threads: int) -> ActorPoolSpec:
    """A pool of actors that build a factory's stage, each with so many threads of torch."""
    return ActorPoolSpec(
        factory=factory,
        workers=actors.count,
        cpus=actors.cpus,
        gpus=actors.gpus,
        threads=threads,
        memory=actors.memory,
        accelerator=actors.accelerator,
    )


class FeatureJobConfig(Protocol):
    """What the configs of jobs that write a feature store have."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def input(self) -> InputConfig | PublishedConfig:
        """What to read."""

    @property
    def output(self) -> OutputConfig:
        """Where the run folder is."""

    @property
    def resources(self) -> ResourcesConfig:
        """What the run uses."""

    @property
    def error_budget(self) -> float:
        """Share of the images that may fail."""


def feature_job(config: FeatureJobConfig, model: str, extractor: dict[str, Any], kept: dict[str, Any]) -> Job:
    """Return a bulk job that writes a feature store.

    Args:
        config: its config.
        model: names the weights.
        extractor: fingerprint of what found the regions, which the store's files carry.
        kept: what else the rows depend on.
    """
    # An empty table of the store, for the metadata that its files carry.
    metadata = features.write([], [], fingerprint=extractor).schema.metadata
    return Job(
        results="features",
        schema=row_schemas.FEATURES.with_metadata(metadata),
        encode=features.parquet_bytes,
        model=model,
        config=dataclasses.asdict(config),
        fingerprint={"regions": extractor, "schema": features.SCHEMA_VERSION, **kept},
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=config.error_budget,
        example=None,
    )
