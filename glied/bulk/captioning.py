"""From a config to the models of a bulk job, and to what identifies their results."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import glied
from glied import checkpoint, storage
from glied.bulk import sinks
from glied.bulk.chunks import Pool, Stage, StageFactory
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.job import Job
from glied.bulk.sources.fetch import Fetch
from glied.bulk.sources.web import WebReader
from glied.bulk.stages import (
    TRANSIT,
    CaptionImages,
    CaptionRegions,
    Describe,
    ExtractRegions,
    ImageStage,
    RegionsStage,
)
from glied.captioner.captioner import Captioner
from glied.captioner.decode import DecodingConfig
from glied.errors import UsageError
from glied.rewards.config import ClipConfig
from glied.vision import images
from glied.vision.attributes import load_attributes
from glied.vision.decoding import DecoderPool
from glied.vision.regions import RegionExtractor, RegionsConfig, load_extractor

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.rewards.clip import ClipScorer


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A trained part."""

    checkpoint: str
    """Folder (path or URI) of the weights; a relative path is looked for here, then in the repository."""


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
    captioner: CheckpointConfig
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
        """Refuse a budget that is no share, and scores without the images."""
        check_budget(self.error_budget)
        if self.clip is not None and self.resources.pools == "split":
            raise UsageError("clip needs resources.pools fused: the second pool does not see the images")


def check_budget(budget: float) -> None:
    """Refuse an error budget that is no share."""
    if not 0 <= budget <= 1:
        raise UsageError(f"error_budget: {budget} is not between 0 and 1")


@dataclass(frozen=True)
class CaptionFactory:
    """Builds a captioning stage where it runs.

    Attributes:
        part: all of it in one stage, or the first or the second of two.
    """

    regions: RegionsConfig
    attributes: str
    captioner: str
    decoding: DecodingConfig
    batch_size: int
    decoders: int
    clip: ClipConfig | None = None
    part: Literal["all", "regions", "captions"] = "all"

    def build(self) -> Stage:
        """Load the models of the part.

        Raises:
            UsageError: a checkpoint is missing or of another kind.
        """
        if self.part == "captions":
            return RegionsStage(self._captions(), batch_size=self.batch_size)
        extractor = self._extractor()
        describe: Describe
        if self.part == "regions":
            describe = ExtractRegions(extractor, model="", dtype=TRANSIT)
        else:
            describe = CaptionImages(extractor, self._captions(), self._clip())
        return ImageStage(describe, DecoderPool(self.decoders), batch_size=self.batch_size)

    def inspect(self) -> tuple[str, dict[str, Any]]:
        """Load everything once, on the CPU, so that mistakes are found early; what the captions depend on.

        Returns:
            The name of the weights, and the fingerprint.

        Raises:
            UsageError: as `build`, or the models do not fit together.
        """
        here = dataclasses.replace(self, regions=dataclasses.replace(self.regions, device="cpu"))
        extractor, captions = here._extractor(), here._captions()
        captioner = captions.captioner
        sizes = (extractor.feature_size, captions.predictor.feature_size, captioner.model.feature_size)
        if len(set(sizes)) > 1:
            raise UsageError(
                f"regions, attributes and captioner do not fit: their features have {sizes} values"
            )
        clip = here._clip()
        return captions.model, {
            "clip": None if clip is None else dict(clip.fingerprint),
            "regions": dict(extractor.fingerprint),
            "attributes": checkpoint.load(locate(self.attributes)).digest,
            "captioner": captioner.digest,
            "decoding": dataclasses.asdict(self.decoding),
            "preprocessing": preprocessing(),
            "schema": sinks.SCHEMA_VERSION,
        }

    def _extractor(self) -> RegionExtractor:
        check_device(self.regions.device)
        return load_extractor(located(self.regions))

    def _clip(self) -> "ClipScorer | None":
        if self.clip is None:
            return None
        from glied.rewards.clip import load_clip

        located_clip = dataclasses.replace(self.clip, checkpoint=locate(self.clip.checkpoint))
        return load_clip(dataclasses.replace(located_clip, device=self.regions.device))

    def _captions(self) -> CaptionRegions:
        device = check_device(self.regions.device)
        predictor = load_attributes(locate(self.attributes)).to(device)
        captioner = Captioner.load(locate(self.captioner), self.decoding, device)
        name = f"{captioner.model.config.architecture}-{captioner.digest[:12]}"
        return CaptionRegions(predictor, captioner, model=name)


def caption_factory(config: CaptionDatasetConfig) -> CaptionFactory:
    """The factory of a config's whole stage."""
    return CaptionFactory(
        regions=config.regions,
        attributes=config.attributes.checkpoint,
        captioner=config.captioner.checkpoint,
        decoding=config.decoding,
        batch_size=config.resources.batch_size,
        decoders=config.resources.decoders,
        clip=config.clip,
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
    )


def caption_job(config: CaptionDatasetConfig) -> Job:
    """The bulk job of a config."""
    model, fingerprint = caption_factory(config).inspect()
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


def fetch_stage(source: InputConfig, resources: ResourcesConfig) -> Fetch:
    """The fetching stage of a config."""
    return Fetch(
        form=source.form,
        image_column=source.image_column,
        id_column=source.id_column,
        threads=resources.fetch_threads,
        max_bytes=source.max_bytes,
        web=WebReader(max_bytes=source.max_bytes, allow_private=source.allow_private),
    )


def preprocessing() -> dict[str, Any]:
    """What decides the pixels, beside the region extractor's own settings."""
    return {"max_pixels": images.MAX_PIXELS, "max_side": images.MAX_SIDE}


def check_device(name: str) -> torch.device:
    """The torch device, if this machine has it."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"regions.device: {name} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"regions.device: {name}, but there is no GPU here (resources.worker_gpus is what asks for one)"
        )
    return device


def located(config: RegionsConfig) -> RegionsConfig:
    """The config with its checkpoints located."""
    clip = config.clip and dataclasses.replace(config.clip, checkpoint=locate(config.clip.checkpoint))
    return dataclasses.replace(config, checkpoint=locate(config.checkpoint), clip=clip)


def locate(uri: str) -> str:
    """A relative path that does not exist here is meant from the repository (shipped weights)."""
    if not storage.is_local(uri) or Path(uri).is_absolute() or Path(uri).exists():
        return uri
    shipped = Path(glied.__file__).parent.parent / uri
    return str(shipped) if shipped.exists() else uri
