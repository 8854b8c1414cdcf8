"""From a config to the captioning of images in bulk: the config classes, and the parts of the job.

Captioners differ in how they describe an image (`stages`); everything else is the same for all of them.
`captioner.kind` decides the config class: only glied, the default, has regions and attributes. The driver
gets by without torch: see `stages.factories`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from glied import storage
from glied.bulk import row_schemas
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig, WebConfig
from glied.bulk.items import ActorPoolSpec, ColumnUse, FetchStage, Job
from glied.bulk.job_parts import actor_pool, check_budget
from glied.bulk.plan.sources.feature_stores import ReadStore
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.row_uris import RowUris
from glied.bulk.plan.sources.web_hosts import PatientReader
from glied.bulk.plan.sources.web_reader import WebReader
from glied.bulk.stages.factories import CaptionFactory, EngineFactory
from glied.bulk.stages.quality import QualityConfig
from glied.captioner.config import DecodingConfig
from glied.captioner.engines.config import CocaConfig, EndpointConfig, TransformersConfig
from glied.captioner.engines.prompts import columns_of
from glied.clip.config import ClipConfig
from glied.config import given_value, parse
from glied.errors import UsageError
from glied.text.caption_rules import TextRules
from glied.vision.extractors.config import RegionsConfig


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A trained part."""

    checkpoint: str
    """Folder (path or URI) of the weights; a relative path is looked for here, then in the repository."""


@dataclass(frozen=True, kw_only=True)
class CaptionerSourceConfig(CheckpointConfig):
    """The captioner, and how it runs."""

    kind: Literal["glied"] = "glied"
    """Which captioner this is: one of ours, over regions. coca, transformers and endpoint are captioners of
    whole images, with settings of their own (docs/captioners.md)."""
    cuda_graphs: bool = False
    """On a GPU: record decoding as CUDA graphs and replay them where a batch's sizes come again. Same
    captions; each recording holds the memory of a batch."""
    other_regions: bool = False
    """Do not refuse regions of another extractor than the captioner and the attributes were trained on; for
    instance of bottom-up attention from pixels, after training on its published features."""


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig:
    """What the configs of all captioners have in common."""

    input: InputConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is."""
    text: TextRules = field(default_factory=TextRules)
    """What becomes of the texts that the captioner gives, and of captions that images have already."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Choice among the n best captions, and flags."""
    clip: ClipConfig | None = None
    """The CLIP whose CLIP-S goes into the column clip_score; null for none. If its image tower is the
    backbone of the regions, as that of the photographs is, scores take hardly any time."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What the run uses."""
    error_budget: float = 0.01
    """Share of the images that a system failure may cost (status failed); images that are at fault themselves
    and those that a model declines (status rejected) do not count."""
    caption_version: str = "1"
    """Part of the fingerprint; change it to distinguish runs that are otherwise the same, for instance when
    other weights are served under the name of an endpoint's model."""

    def __post_init__(self) -> None:
        """Refuse a budget outside 0 to 1, and scores without images."""
        check_budget(self.error_budget)
        if self.quality.needs_clip and self.clip is None:
            raise UsageError(
                "quality.best_by clip_score and quality.low_clip_score need a clip that scores: name "
                "clip.checkpoint, or clip.model with clip.weights"
            )
        existing = self.text.existing
        if existing.sidecar and self.input.form != "files":
            raise UsageError(f"text.existing.sidecar belongs to input.form files, not to {self.input.form}")
        if existing.is_set and existing.mode == "keep" and self.resources.pools == "split":
            raise UsageError("text.existing.mode keep needs resources.pools fused")


@dataclass(frozen=True, kw_only=True)
class CaptionDatasetConfig(CaptioningConfig):
    """Captions of all images under a prefix."""

    regions: RegionsConfig
    """How regions are found; its device holds the other models too."""
    attributes: CheckpointConfig
    """The attribute predictor."""
    captioner: CaptionerSourceConfig
    """The captioner."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched."""

    def __post_init__(self) -> None:
        """Refuse parts of the config that exclude each other."""
        super().__post_init__()
        if self.captioner.cuda_graphs and not self.regions.device.startswith("cuda"):
            raise UsageError(
                f"captioner.cuda_graphs needs a GPU in regions.device, which is {self.regions.device}"
            )
        if (self.input.form == "features") != (self.regions.kind == "precomputed"):
            raise UsageError("input.form features and regions.kind precomputed belong together")
        if self.regions.kind == "precomputed" and (self.clip or self.resources.pools == "split"):
            raise UsageError("regions.kind precomputed takes no clip and one pool: there are no images")


@dataclass(frozen=True, kw_only=True)
class EngineDatasetConfig(CaptioningConfig):
    """What the configs of all captioners of whole images have in common."""

    def __post_init__(self) -> None:
        """Refuse inputs without images, and pools of regions."""
        super().__post_init__()
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


def caption_factory(config: CaptionConfig) -> CaptionFactory | EngineFactory:
    """The factory of a config's whole stage."""
    if isinstance(config, CaptionDatasetConfig):
        return region_factory(config)
    batch = config.resources.worker.batch_size
    if isinstance(config.captioner, EndpointConfig):  # a batch keeps all its requests busy
        batch = max(batch, config.captioner.requests.concurrency)
    return EngineFactory(
        engine=config.captioner,
        decoding=config.decoding if isinstance(config, CocaDatasetConfig) else DecodingConfig(),
        **_common(config) | {"batch_size": batch},
    )


def region_factory(config: CaptionDatasetConfig) -> CaptionFactory:
    """The factory of the whole stage of a captioner over regions."""
    stored = config.regions.kind == "precomputed"
    return CaptionFactory(
        regions=config.regions,
        attributes=config.attributes.checkpoint,
        captioner=config.captioner.checkpoint,
        decoding=config.decoding,
        part="captions" if stored else "all",
        store=storage.absolute(config.input.uri) if stored else "",
        cuda_graphs=config.captioner.cuda_graphs,
        other_regions=config.captioner.other_regions,
        **_common(config),
    )


def without_scores(config: CaptionConfig) -> CaptionConfig:
    """The config without its CLIP, unless captions are chosen or flagged by its scores.

    For callers that show no scores: open_clip takes seconds to import.
    """
    return config if config.quality.needs_clip else dataclasses.replace(config, clip=None)


def _common(config: CaptionConfig) -> dict[str, Any]:
    """The fields of `stages.specs.StageSpec`."""
    return {
        "batch_size": config.resources.worker.batch_size,
        "decoders": config.resources.worker.decoders,
        "missing_rows": config.input.max_missing_rows,
        "clip": config.clip,
        "text": config.text,
        "quality": config.quality,
    }


def caption_pools(config: CaptionConfig, job: Job | None = None) -> list[ActorPoolSpec]:
    """The pools of workers that a config asks for: one, or one for regions and one for captions.

    Args:
        config: of the captioning.
        job: its job, which knows the commit of a model on the Hub that all workers are to load.
    """
    whole, resources = caption_factory(config), config.resources
    threads = resources.worker.threads
    if isinstance(whole, CaptionFactory) and resources.pools == "split":
        return [
            actor_pool(dataclasses.replace(whole, part="regions"), resources.worker, threads=threads),
            actor_pool(dataclasses.replace(whole, part="captions"), resources.caption, threads=threads),
        ]
    if isinstance(whole, EngineFactory) and isinstance(whole.engine, TransformersConfig) and job is not None:
        pinned = whole.engine.pinned(job.fingerprint["captioner"]["weights"])
        whole = dataclasses.replace(whole, engine=pinned)
    return [actor_pool(whole, resources.worker, threads=threads)]


def caption_job(config: CaptionConfig) -> Job:
    """The bulk job of a config.

    Raises:
        UsageError: a model or a package is missing, the models do not fit together, or an endpoint refuses a
            request.
    """
    inspection = caption_factory(config).inspect()
    captioner = config.captioner
    return Job(
        results="captions",
        schema=row_schemas.CAPTIONS,
        encode=row_schemas.encode,
        model=inspection.model,
        config=dataclasses.asdict(config),
        fingerprint=inspection.fingerprint | {"caption_version": config.caption_version},
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=config.error_budget,
        example=lambda row: row["caption"],
        budget=captioner.cost.budget if isinstance(captioner, EndpointConfig) else None,
        reads=_columns_read(config),
    )


def _columns_read(config: CaptionConfig) -> tuple[ColumnUse, ...]:
    """The columns of the input that the captions need."""
    prompts: dict[str, str] = getattr(config.captioner, "prompts", {})
    uses = [
        ColumnUse(f"captioner.prompts.{name}", column)
        for name, template in prompts.items()
        for column in columns_of(template)
    ]
    if column := config.text.existing.column:
        uses.append(ColumnUse("text.existing.column", column, is_text=True))
    return tuple(uses)


def caption_fetch(config: CaptionConfig) -> FetchStage:
    """The fetching stage of a config of captions."""
    return fetch_stage(config.input, config.resources, sidecar=config.text.existing.sidecar)


def fetch_stage(source: InputConfig, resources: ResourcesConfig, *, sidecar: str = "") -> FetchStage:
    """The fetching stage of a config; `sidecar` as in `ExistingConfig`."""
    if source.form == "features":
        return ReadStore()
    return Fetch(
        sidecar=sidecar,
        form=source.form,
        image_column=source.image_column,
        id_column=source.id_column,
        threads=resources.fetch.threads,
        max_bytes=source.max_bytes,
        web=_web_reader(source, resources.fetch.web),
        uris=_row_uris(source),
        file_s=resources.fetch.file_s,
    )


def _row_uris(source: InputConfig) -> RowUris | None:
    tables = source.form in ("table", "parquet")
    return RowUris.of(storage.absolute(source.uri), source.allow or ()) if tables else None


def _web_reader(source: InputConfig, web: WebConfig) -> PatientReader:
    reader = WebReader(
        max_bytes=source.max_bytes,
        connect_timeout_s=web.connect_s,
        read_timeout_s=web.silence_s,
        total_timeout_s=web.total_s,
        allow_private=source.allow_private,
        user_agent=web.user_agent,
    )
    return PatientReader(reader=reader, attempts=web.attempts, retry_after_s=web.retry_after_s)
