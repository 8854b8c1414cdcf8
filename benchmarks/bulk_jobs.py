"""Bulk jobs without models, for benchmarks that measure everything around the models."""

from glied.bulk.captioning import CaptionDatasetConfig
from glied.bulk.items import Job
from glied.bulk.row_schemas import CAPTIONS, encode
from glied.config import parse

CONFIG = "configs/caption/demo.yaml"


def caption_config(*options: str) -> CaptionDatasetConfig:
    """Parse the demo world's captioning config with some options."""
    return parse(CaptionDatasetConfig, [f"--config={CONFIG}", *options])


def job_without_models(config: CaptionDatasetConfig) -> Job:
    """Return a captioning job that loads no models."""
    return Job(
        results="captions",
        schema=CAPTIONS,
        encode=encode,
        model="none",
        config={},
        fingerprint={},
        source=config.input,
        output=config.output,
        resources=config.resources,
        error_budget=0.0,
        example=lambda row: row["caption"],
    )
