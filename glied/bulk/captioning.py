"""From a config to the captioning of images in bulk. The driver gets by without torch: see
`stages.model_loading`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from glied import storage
from glied.bulk import row_schemas
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig, WebConfig
from glied.bulk.items import ActorPoolSpec, FetchStage, Job
from glied.bulk.job_parts import actor_pool, check_budget
from glied.bulk.plan.sources.feature_stores import ReadStore
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.row_uris import RowUris
from glied.bulk.plan.sources.web_hosts import PatientReader
from glied.bulk.plan.sources.web_reader import WebReader
from glied.bulk.stages.factories import CaptionFactory
from glied.captioner.config import DecodingConfig
from glied.clip.config import ClipConfig
from glied.errors import UsageError
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
class CaptionDatasetConfig:
    """Captions of all images under a prefix."""

    input: InputConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is."""
    regions: RegionsConfig
    """How regions are found; its device holds the other models too."""
    attributes: CheckpointConfig
    """The attribute predictor."""
    captioner: CaptionerSourceConfig
    """The captioner."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How captions are searched."""
    clip: ClipConfig | None = None
    """The CLIP whose CLIP-S goes into the column clip_score; null for none."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What the run uses."""
    error_budget: float = 0.01
    """Share of the images that a system failure may cost (status failed); images that are at fault themselves
    (status rejected) do not count."""
    caption_version: str = "1"
    """Part of the fingerprint; change it to distinguish runs that are otherwise the same."""

    def __post_init__(self) -> None:
        """Refuse a budget outside 0 to 1, and parts of the config that exclude each other."""
        check_budget(self.error_budget)
        if self.captioner.cuda_graphs and not self.regions.device.startswith("cuda"):
            raise UsageError(
                f"captioner.cuda_graphs needs a GPU in regions.device, which is {self.regions.device}"
            )
        if self.clip is not None and self.resources.pools == "split":
            raise UsageError("clip needs resources.pools fused: the second pool does not see the images")
        if (self.input.form == "features") != (self.regions.kind == "precomputed"):
            raise UsageError("input.form features and regions.kind precomputed belong together")
        if self.regions.kind == "precomputed" and (self.clip or self.resources.pools == "split"):
            raise UsageError("regions.kind precomputed takes no clip and one pool: there are no images")


def caption_factory(config: CaptionDatasetConfig) -> CaptionFactory:
    """The factory of a config's whole stage."""
    stored = config.regions.kind == "precomputed"
    return CaptionFactory(
        regions=config.regions,
        attributes=config.attributes.checkpoint,
        captioner=config.captioner.checkpoint,
        decoding=config.decoding,
        batch_size=config.resources.worker.batch_size,
        decoders=config.resources.worker.decoders,
        clip=config.clip,
        part="captions" if stored else "all",
        store=storage.absolute(config.input.uri) if stored else "",
        cuda_graphs=config.captioner.cuda_graphs,
        missing_rows=config.input.max_missing_rows,
        other_regions=config.captioner.other_regions,
    )


def caption_pools(config: CaptionDatasetConfig) -> list[ActorPoolSpec]:
    """The pools of workers that a config asks for: one, or one for regions and one for captions."""
    whole, resources = caption_factory(config), config.resources
    if resources.pools == "fused":
        return [actor_pool(whole, resources.worker, threads=resources.worker.threads)]
    regions, captions = (
        dataclasses.replace(whole, part="regions"),
        dataclasses.replace(whole, part="captions"),
    )
    threads = resources.worker.threads
    return [
        actor_pool(regions, resources.worker, threads=threads),
        actor_pool(captions, resources.caption, threads=threads),
    ]


def caption_job(config: CaptionDatasetConfig) -> Job:
    """The bulk job of a config.

    Raises:
        UsageError: a checkpoint is missing or of another kind, or the models do not fit together.
    """
    inspection = caption_factory(config).inspect()
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
    )


def fetch_stage(source: InputConfig, resources: ResourcesConfig) -> FetchStage:
    """The fetching stage of a config."""
    if source.form == "features":
        return ReadStore()
    return Fetch(
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
