"""From a config to the import of published features: a bulk run whose images are already described."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from glied import storage
from glied.bulk.config import ChunkConfig, OutputConfig, PublishedConfig, ResourcesConfig
from glied.bulk.items import Job
from glied.bulk.job_parts import check_budget, feature_job
from glied.bulk.plan.sources.published_features import ReadPublished
from glied.data import coco, features, published_features
from glied.errors import UsageError

_TYPES = {"float16": features.STORED, "float32": features.EXACT}


@dataclass(frozen=True, kw_only=True)
class ImportFeaturesConfig:
    """Published features into a feature store."""

    input: PublishedConfig
    """What to read."""
    output: OutputConfig
    """Where the run folder is; its folder features/ is the feature store."""
    extractor: str
    """What found the regions, in your words: stores whose words differ are never used together."""
    dtype: Literal["float16", "float32"] = "float16"
    """How features are stored. float32 keeps every bit and takes twice the room."""
    resources: ResourcesConfig = field(default_factory=lambda: ResourcesConfig(chunk=ChunkConfig(images=32)))
    """What the run uses; it runs in this process."""
    error_budget: float = 0.0
    """Share of the images that may fail because of storage; broken ones (rejected) do not count."""

    def __post_init__(self) -> None:
        """Refuse a store without a name, and a budget outside 0 to 1."""
        if not self.extractor.strip():
            raise UsageError("extractor is empty: say what found the regions, e.g. bottom-up 10-100")
        check_budget(self.error_budget)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the extractor, as the store's files carry it."""
        return {"kind": "published", "extractor": self.extractor.strip()}

    @property
    def stage(self) -> ReadPublished:
        """Reads planned images."""
        return ReadPublished(self.input.form, _TYPES[self.dtype], f"published: {self.extractor.strip()}")


def import_job(config: ImportFeaturesConfig) -> Job:
    """The bulk job of a config.

    Raises:
        UsageError: h5py is needed and missing, or the captions file is.
    """
    if config.input.form == "hdf5":
        published_features.import_h5py()
    kept = {"dtype": config.dtype, "captions": _digest(config.input.captions)}
    return feature_job(config, config.stage.model, config.fingerprint, kept)


def missing_images(config: ImportFeaturesConfig) -> list[str]:
    """Images of the captions file that the finished store has no regions of; reads its ids."""
    if not config.input.captions:
        return []
    there = set(features.image_ids(config.output.uri))  # which are the captions' own names
    return [name for name in coco.load_captions(config.input.captions) if name not in there]


def _digest(uri: str) -> str:
    if not uri:
        return ""
    try:
        return hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    except FileNotFoundError as error:
        raise UsageError(f"input.captions: no caption file at {uri}") from error
