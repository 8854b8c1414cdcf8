"""Bulk captioning with captioners that others trained; the part of `captioning` for each kind of captioner.

`captioner.kind` decides the config class: only glied, the default, has regions and attributes.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from glied.bulk import captioning, row_schemas
from glied.bulk.captioning import CaptionDatasetConfig
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.items import ActorPoolSpec, Job, StageFactory
from glied.bulk.job_parts import actor_pool, check_budget
from glied.bulk.stages.engine_factory import EngineFactory
from glied.captioner.config import DecodingConfig
from glied.captioner.engines.config import CocaConfig, EndpointConfig, TransformersConfig
from glied.clip.config import ClipConfig
from glied.config import given_value, parse
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EngineDatasetConfig:
    """What the configs of all captioners of whole images have in common."""

    input: InputConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is."""
    clip: ClipConfig | None = None
    """The CLIP whose CLIP-S goes into the column clip_score; null for none."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What the run uses."""
    error_budget: float = 0.01
    """Share of the images that a system failure may cost (status failed); images that are at fault themselves
    and those that a model declines (status rejected), do not count."""
    caption_version: str = "1"
    """Part of the fingerprint; change it to distinguish runs that are otherwise the same, for instance when
    other weights are served under the name of an endpoint's model."""

    def __post_init__(self) -> None:
        """Refuse inputs without images, and pools of regions."""
        check_budget(self.error_budget)
        if self.input.form == "features":
            raise UsageError("input.form features holds regions, which only captioner.kind glied reads")
        if self.resources.pools == "split":
            raise UsageError("resources.pools split belongs to captioner.kind glied: there are no regions")


@dataclass(frozen=True, kw_only=True)
class CocaDatasetConfig(EngineDatasetConfig):
    """Captions of all images under a prefix, by a CoCa of open_clip."""

    captioner: CocaConfig
    """The captioner."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched; lengths count CLIP's tokens."""


@dataclass(frozen=True, kw_only=True)
class TransformersDatasetConfig(EngineDatasetConfig):
    """Captions of all images under a prefix, by a model of Hugging Face transformers."""

    captioner: TransformersConfig
    """The captioner."""


@dataclass(frozen=True, kw_only=True)
class EndpointDatasetConfig(EngineDatasetConfig):
    """Captions of all images under a prefix, by a model behind an OpenAI-compatible API."""

    captioner: EndpointConfig
    """The captioner."""


EngineConfigs: TypeAlias = CocaDatasetConfig | TransformersDatasetConfig | EndpointDatasetConfig
CaptionConfig: TypeAlias = CaptionDatasetConfig | EngineConfigs
CONFIG_CLASSES: dict[str, type[CaptionConfig]] = {
    "glied": CaptionDatasetConfig,
    "coca": CocaDatasetConfig,
    "transformers": TransformersDatasetConfig,
    "endpoint": EndpointDatasetConfig,
}
"""Config class by `captioner.kind`."""


def config_class(kind: object) -> type[CaptionConfig]:
    """The config class of a kind of captioner; None is that of glied.

    Raises:
        UsageError: there is no such kind.
    """
    name = "glied" if kind is None else kind
    if not isinstance(name, str) or name not in CONFIG_CLASSES:
        raise UsageError(f"captioner.kind: {name!r} is not one of {', '.join(CONFIG_CLASSES)}")
    return CONFIG_CLASSES[name]


def parse_captioning(
    argv: Sequence[str] | None = None, *, description: str | None = None, arguments: str = ""
) -> CaptionConfig:
    """The config of a captioning job, of the class that its `captioner.kind` asks for.

    Raises:
        UsageError: as `parse`, or the kind is unknown.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    found = config_class(given_value(given, "captioner.kind"))
    return parse(found, given, description=description, arguments=arguments)


def stage_factory(config: CaptionConfig) -> StageFactory:
    """What builds the whole stage of a config."""
    if isinstance(config, CaptionDatasetConfig):
        return captioning.caption_factory(config)
    return engine_factory(config)


def engine_factory(config: EngineConfigs) -> EngineFactory:
    """The factory of a config's stage; an endpoint's batches keep all its requests busy."""
    captioner, worker = config.captioner, config.resources.worker
    batch = worker.batch_size
    if isinstance(captioner, EndpointConfig):
        batch = max(batch, captioner.concurrency)
    return EngineFactory(
        captioner=captioner,
        decoding=config.decoding if isinstance(config, CocaDatasetConfig) else DecodingConfig(),
        batch_size=batch,
        decoders=worker.decoders,
        clip=config.clip,
        missing_rows=config.input.max_missing_rows,
    )


def pools(config: CaptionConfig, described: Job) -> list[ActorPoolSpec]:
    """The pools of workers that a config asks for.

    Args:
        config: of the captioning.
        described: its job, which knows the commit that the workers are to load.
    """
    if isinstance(config, CaptionDatasetConfig):
        return captioning.caption_pools(config)
    factory, worker = engine_factory(config), config.resources.worker
    if isinstance(config.captioner, TransformersConfig):
        weights = described.fingerprint["captioner"]["weights"]
        factory = dataclasses.replace(factory, captioner=config.captioner.pinned(weights))
    return [actor_pool(factory, worker, threads=worker.threads)]


def job(config: CaptionConfig) -> Job:
    """The bulk job of a config.

    Raises:
        UsageError: a model or a package is missing, or an endpoint refuses a request.
    """
    if isinstance(config, CaptionDatasetConfig):
        return captioning.caption_job(config)
    inspection = engine_factory(config).inspect()
    captioner = config.captioner
    return Job(
        results="captions",
        schema=row_schemas.ENGINE_CAPTIONS,
        encode=row_schemas.encode,
        model=inspection.model,
        config=dataclasses.asdict(config),
        fingerprint=inspection.fingerprint | {"caption_version": config.caption_version},
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=config.error_budget,
        example=lambda row: cast("str | None", row["caption"]),
        budget=captioner.budget if isinstance(captioner, EndpointConfig) else None,
    )
