"""From a config to the captioning of images in bulk. The driver gets by without torch: see `loading`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from glied.bulk import sinks
from glied.bulk.apart import in_child
from glied.bulk.chunks import FetchStage, Pool, Stage, StageFactory
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig, WebConfig
from glied.bulk.job import Job
from glied.bulk.sources.fetch import Fetch
from glied.bulk.sources.hosts import PatientReader
from glied.bulk.sources.listing import absolute
from glied.bulk.sources.row_uris import RowUris
from glied.bulk.sources.stored import ReadStore
from glied.bulk.sources.web import WebReader
from glied.captioner.config import DecodingConfig
from glied.errors import UsageError
from glied.rewards.config import ClipConfig
from glied.vision import images
from glied.vision.config import RegionsConfig


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A trained part."""

    checkpoint: str
    """Folder (path or URI) of the weights; a relative path is looked for here, then in the repository."""


@dataclass(frozen=True, kw_only=True)
class CaptionerSourceConfig(CheckpointConfig):
    """The captioner, and how it runs."""

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
    """Share of the images that may fail for reasons of ours; images that are at fault themselves (status
    rejected) do not count."""
    caption_version: str = "1"
    """Part of the fingerprint; change it to keep apart what the rest of the fingerprint cannot tell apart."""

    def __post_init__(self) -> None:
        """Refuse a budget that is no share, scores without the images, and regions from nowhere."""
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


def check_budget(budget: float) -> None:
    """Refuse an error budget that is no share."""
    if not 0 <= budget <= 1:
        raise UsageError(f"error_budget: {budget} is not between 0 and 1")


@dataclass(frozen=True)
class CaptionFactory:
    """Builds a captioning stage where it runs.

    Attributes:
        part: all of it in one stage, or the first or the second of two.
        store: the feature store whose regions are captioned, empty where they are found in images.
    """

    regions: RegionsConfig
    attributes: str
    captioner: str
    decoding: DecodingConfig
    batch_size: int
    decoders: int
    clip: ClipConfig | None = None
    part: Literal["all", "regions", "captions"] = "all"
    store: str = ""
    cuda_graphs: bool = False
    missing_rows: float = 0.0
    other_regions: bool = False

    def build(self) -> Stage:
        """Load the models of the part; see `loading.caption_stage`."""
        from glied.bulk import loading

        return loading.caption_stage(self)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Name of the weights and fingerprint; see `loading.caption_fingerprint`."""
        from glied.bulk import loading

        return loading.caption_fingerprint(self)


def caption_factory(config: CaptionDatasetConfig) -> CaptionFactory:
    """The factory of a config's whole stage."""
    stored = config.regions.kind == "precomputed"
    return CaptionFactory(
        regions=config.regions,
        attributes=config.attributes.checkpoint,
        captioner=config.captioner.checkpoint,
        decoding=config.decoding,
        batch_size=config.resources.batch_size,
        decoders=config.resources.decoders,
        clip=config.clip,
        part="captions" if stored else "all",
        store=absolute(config.input.uri) if stored else "",
        cuda_graphs=config.captioner.cuda_graphs,
        missing_rows=config.input.max_missing_rows,
        other_regions=config.captioner.other_regions,
    )


def caption_pools(config: CaptionDatasetConfig) -> list[Pool]:
    """The pools of workers that a config asks for: one, or one for regions and one for captions."""
    whole, resources = caption_factory(config), config.resources
    first = image_pool(whole, resources)
    if resources.pools == "fused":
        return [first]
    regions = dataclasses.replace(first, factory=dataclasses.replace(whole, part="regions"))
    captions = Pool(
        factory=dataclasses.replace(whole, part="captions"),
        workers=resources.caption_workers,
        cpus=resources.caption_cpus,
        gpus=resources.caption_gpus,
        threads=resources.worker_threads,
        memory=resources.caption_memory,
        accelerator=resources.caption_accelerator,
    )
    return [regions, captions]


def image_pool(factory: StageFactory, resources: ResourcesConfig) -> Pool:
    """The pool that decodes images."""
    return Pool(
        factory=factory,
        workers=resources.workers,
        cpus=resources.worker_cpus,
        gpus=resources.worker_gpus,
        threads=resources.worker_threads,
        memory=resources.worker_memory,
        accelerator=resources.worker_accelerator,
    )


def caption_job(config: CaptionDatasetConfig, *, apart: bool = False) -> Job:
    """The bulk job of a config; `apart` looks at the models in another process, so that this one stays small.

    Raises:
        UsageError: a checkpoint is missing or of another kind, or the models do not fit together.
    """
    factory = caption_factory(config)
    model, fingerprint = (
        in_child(factory.inspect, purpose="looks at the models") if apart else factory.inspect()
    )
    return Job(
        results="captions",
        schema=sinks.CAPTIONS,
        encode=sinks.encode,
        model=model,
        config=dataclasses.asdict(config),
        fingerprint=fingerprint | {"caption_version": config.caption_version},
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
        threads=resources.fetch_threads,
        max_bytes=source.max_bytes,
        web=_web_reader(source, resources.web),
        uris=_row_uris(source),
        file_s=resources.file_s,
    )


def _row_uris(source: InputConfig) -> RowUris | None:
    tables = source.form in ("table", "parquet")
    return RowUris.of(absolute(source.uri), source.allow or ()) if tables else None


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


def preprocessing(missing_rows: float) -> dict[str, Any]:
    """What decides the pixels, beside the region extractor's own settings; `missing_rows` where it is set."""
    fixed = {"max_pixels": images.MAX_PIXELS, "max_side": images.MAX_SIDE, "shrunk_above": images.LARGE}
    return fixed | ({"missing_rows": missing_rows} if missing_rows else {})
