"""What stages are built from; light, since a run's driver need not import torch."""

from dataclasses import dataclass
from typing import Any, Literal

from glied.captioner.config import DecodingConfig
from glied.clip.config import ClipConfig
from glied.vision import images
from glied.vision.crops import CopyConfig
from glied.vision.extractors.config import RegionsConfig


@dataclass(frozen=True)
class CaptionSpec:
    """What a captioning stage is built from.

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


@dataclass(frozen=True)
class ExtractSpec:
    """What an extraction stage is built from."""

    regions: RegionsConfig
    batch_size: int
    decoders: int
    missing_rows: float = 0.0
    copy: CopyConfig | None = None


def preprocessing(missing_rows: float) -> dict[str, Any]:
    """What decides the pixels, beside the region extractor's own settings; `missing_rows` where it is set."""
    fixed = {"max_pixels": images.MAX_PIXELS, "max_side": images.MAX_SIDE, "shrunk_above": images.LARGE}
    return fixed | ({"missing_rows": missing_rows} if missing_rows else {})
