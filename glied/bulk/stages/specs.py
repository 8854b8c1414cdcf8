"""What stages are built from, and what their rows depend on; no torch here, since a run's driver has none."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glied.bulk import row_schemas
from glied.bulk.stages.quality import QualityConfig
from glied.captioner.config import DecodingConfig
from glied.captioner.engines.loading import EngineConfig
from glied.captioner.familiarity import Familiarity
from glied.clip.config import ClipConfig
from glied.config_keys import with_former_keys
from glied.text.caption_rules import TextRules
from glied.vision import images
from glied.vision.crops import CopyConfig
from glied.vision.extractors.config import RegionsConfig

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What every captioning stage is built from.

    Attributes:
        batch_size, decoders: images at a time, processes that decode them.
        missing_rows: as `InputConfig.max_missing_rows`.
        clip: config of the CLIP that scores captions; None for no scores.
        text, quality: how captions are finished.
    """

    batch_size: int
    decoders: int
    missing_rows: float = 0.0
    clip: ClipConfig | None = None
    text: TextRules = field(default_factory=TextRules)
    quality: QualityConfig = field(default_factory=QualityConfig)


@dataclass(frozen=True, kw_only=True)
class CaptionSpec(StageSpec):
    """What a captioning stage over regions is built from.

    Attributes:
        regions: config of the extractor.
        attributes, captioner: folders of the checkpoints.
        decoding: how captions are searched.
        part: all of it in one stage, or the first or the second of two.
        store: the feature store whose regions are captioned, empty where they are found in images.
        cuda_graphs: whether decoding is recorded.
        other_regions: whether regions of another extractor than in training are accepted.
    """

    regions: RegionsConfig
    attributes: str
    captioner: str
    decoding: DecodingConfig
    part: Literal["all", "regions", "captions"] = "all"
    store: str = ""
    cuda_graphs: bool = False
    other_regions: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineSpec(StageSpec):
    """What the stage of a whole-image captioner is built from.

    Attributes:
        engine: config of the captioner.
        decoding: how a CoCa is searched.
    """

    engine: EngineConfig
    decoding: DecodingConfig


@dataclass(frozen=True)
class ExtractSpec:
    """What an extraction stage is built from; fields as in `CaptionSpec`, and `copy` for varied copies."""

    regions: RegionsConfig
    batch_size: int
    decoders: int
    missing_rows: float = 0.0
    copy: CopyConfig | None = None


@dataclass(frozen=True)
class Inspection:
    """What a run records of its models.

    Attributes:
        model: names the weights, for the column of that name.
        fingerprint: what the rows depend on, as JSON values.
    """

    model: str
    fingerprint: dict[str, Any]


def captions_inspection(
    spec: CaptionSpec,
    *,
    architecture: str,
    regions: Fingerprint,
    attributes: str,
    captioner: str,
    familiarity: Familiarity | None,
    clip: Fingerprint | None = None,
) -> Inspection:
    """Of a captioning run.

    Args:
        spec: of its stages.
        architecture: the captioner's.
        regions: fingerprint of the extractor.
        attributes: digest of the predictor's checkpoint.
        captioner: digest of the captioner's.
        familiarity: of the captioner.
        clip: fingerprint of the CLIP that scores captions.
    """
    fingerprint = {
        "regions": dict(regions),
        "attributes": attributes,
        "captioner": captioner,
        "decoding": with_former_keys(spec.decoding),
    } | common_fingerprint(spec, clip)
    known = {} if familiarity is None else {"familiarity": familiarity.digest}
    return Inspection(captioner_name(architecture, captioner), fingerprint | known)


def common_fingerprint(spec: StageSpec, clip: Fingerprint | None) -> dict[str, Any]:
    """What the rows of every captioner depend on; `clip` is the fingerprint of the CLIP that scores them.

    How captions are finished counts where it is set: earlier versions had no such settings.
    """
    text = {} if spec.text == TextRules() else {"text": dataclasses.asdict(spec.text)}
    quality = {} if spec.quality == QualityConfig() else {"quality": dataclasses.asdict(spec.quality)}
    return {
        "clip": None if clip is None else dict(clip),
        "preprocessing": preprocessing(spec.missing_rows),
        "schema": row_schemas.SCHEMA_VERSION,
        **text,
        **quality,
    }


def captioner_name(architecture: str, digest: str) -> str:
    """The column `model` of caption rows."""
    return f"{architecture}-{digest[:12]}"


def extractor_name(config: RegionsConfig, fingerprint: Fingerprint) -> str:
    """The column `model` of a feature store's rows."""
    identity = json.dumps(dict(fingerprint), sort_keys=True)
    return f"{config.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def with_decoder(fingerprint: Fingerprint, config: RegionsConfig) -> dict[str, Any]:
    """An extractor's fingerprint, with what decodes its images where that is not the usual."""
    return dict(fingerprint) | ({"jpeg": config.compute.jpeg} if config.compute.jpeg != "cpu" else {})


def preprocessing(missing_rows: float) -> dict[str, Any]:
    """What decides the pixels, beside the region extractor's own settings; `missing_rows` where it is set."""
    fixed = {"max_pixels": images.MAX_PIXELS, "max_side": images.MAX_SIDE, "shrunk_above": images.LARGE}
    return fixed | ({"missing_rows": missing_rows} if missing_rows else {})
